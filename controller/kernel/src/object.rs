//! The BPF object that `build.rs` made of `bpf/programs`, embedded: nothing is compiled on a node.

/// The ELF file with every program and map, aligned as an ELF reader needs it.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("OXILIUM_BPF_OBJECT"));

#[cfg(test)]
mod tests {
    use super::OBJECT;

    #[test]
    fn the_embedded_object_is_an_aligned_elf_for_bpf() {
        const EM_BPF: u16 = 247;
        assert_eq!(OBJECT.as_ptr().align_offset(8), 0);
        assert_eq!(&OBJECT[..4], b"\x7fELF");
        assert_eq!(u16::from_le_bytes([OBJECT[18], OBJECT[19]]), EM_BPF);
    }
}
