//! This process's own memory.

/// Gives memory that was freed back to the kernel. The allocator keeps it for later otherwise: what loading
/// the programs or reading big tables took would count as the agent's for ever.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "it is a function of C")]
    // SAFETY: it takes no pointer and may be called at any time by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
