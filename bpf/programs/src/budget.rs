//! How many events a CPU may make.

use aya_ebpf::{macros::map, maps::PerCpuArray};

use crate::maps::constant;

/// Events a second that a CPU may make.
#[unsafe(no_mangle)]
static EVENT_RATE: u64 = 1000;

const SECOND: u64 = 1_000_000_000;

#[map(name = "ox_event_budget")]
static EVENT_BUDGET: PerCpuArray<Budget> = PerCpuArray::with_max_entries(1, 0);

/// A CPU's token bucket.
#[repr(C)]
struct Budget {
    /// Nanoseconds saved up, a second's at most; an event costs a second by the rate.
    credit: u64,
    /// When it was last filled, in nanoseconds of the boot clock.
    filled: u64,
}

/// Takes the price of an event out of this CPU's bucket.
#[inline(always)]
pub(crate) fn take_token(time: u64) -> bool {
    let rate = constant(&EVENT_RATE);
    let Some(budget) = EVENT_BUDGET.get_ptr_mut(0) else {
        return false;
    };
    if rate == 0 {
        return false;
    }
    // SAFETY: this CPU's own, and programs of a CPU do not interrupt each other here.
    let budget = unsafe { &mut *budget };
    let elapsed = time.saturating_sub(budget.filled).min(SECOND);
    let credit = (budget.credit + elapsed).min(SECOND);
    budget.filled = time;
    let price = SECOND / rate;
    if credit < price {
        budget.credit = credit;
        return false;
    }
    budget.credit = credit - price;
    true
}
