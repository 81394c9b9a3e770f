//! The only code that touches the kernel: BPF maps, programs, links, rtnetlink.

pub mod object;
