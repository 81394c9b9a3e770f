//! The program that does nothing, to subtract what a test run itself costs.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

use zerocopy::{Immutable, IntoBytes};

const BPF_PROG_LOAD: i64 = 5;
const BPF_PROG_TEST_RUN: i64 = 10;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;

/// `r0 = -1` and `exit`.
const INSTRUCTIONS: [u64; 2] = [0xFFFF_FFFF_0000_00B7, 0x95];

#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
struct Load {
    program_type: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log: [u32; 2],
    log_buffer: u64,
    version: u32,
    flags: u32,
}

#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
struct TestRun {
    program: u32,
    action: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

/// A classifier that passes everything.
pub struct EmptyProgram(OwnedFd);

impl EmptyProgram {
    /// Loads it.
    pub fn load() -> io::Result<Self> {
        let mut attributes = Load {
            program_type: BPF_PROG_TYPE_SCHED_CLS,
            count: 2,
            instructions: INSTRUCTIONS.as_ptr().addr() as u64,
            license: c"GPL".as_ptr().addr() as u64,
            ..Load::default()
        };
        let fd = bpf(BPF_PROG_LOAD, &mut attributes)?;
        #[expect(unsafe_code, reason = "the kernel gave the descriptor")]
        // SAFETY: just opened, and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Mean time of one of `repeat` runs on a packet.
    pub fn run(&self, packet: &[u8], repeat: u32) -> io::Result<Duration> {
        let mut attributes = TestRun {
            program: self.0.as_raw_fd().cast_unsigned(),
            size_in: u32::try_from(packet.len()).unwrap_or(u32::MAX),
            data_in: packet.as_ptr().addr() as u64,
            repeat,
            ..TestRun::default()
        };
        bpf(BPF_PROG_TEST_RUN, &mut attributes)?;
        Ok(Duration::from_nanos(u64::from(attributes.duration)))
    }
}

fn bpf<T: IntoBytes + Immutable>(command: i64, attributes: &mut T) -> io::Result<i32> {
    #[expect(unsafe_code, reason = "bpf(2) has no safe wrapper for this")]
    // SAFETY: the attributes are as long as said, and what they point to outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    i32::try_from(result)
        .ok()
        .filter(|result| *result >= 0)
        .ok_or_else(io::Error::last_os_error)
}
