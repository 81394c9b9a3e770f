//! A program that does nothing but pass the packet on: what a hook costs without us.

use anyhow::{Context, Result};
use aya::{Ebpf, programs::SchedClassifier};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
    write::{Object, Symbol, SymbolSection},
};

/// `r0 = -1; exit`: TC_ACT_UNSPEC.
const INSTRUCTIONS: [u8; 16] = [
    0xb7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x95, 0, 0, 0, 0, 0, 0, 0,
];
const NAME: &str = "empty";

/// Loads it. It goes with the value.
///
/// # Errors
/// If the kernel refuses it.
pub fn load() -> Result<Ebpf> {
    let mut ebpf = Ebpf::load(&elf()?)?;
    program(&mut ebpf)?.load()?;
    Ok(ebpf)
}

/// The program in what [`load`] gave.
///
/// # Errors
/// If it is not there.
pub fn program(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier> {
    let program = ebpf.program_mut(NAME).context("the empty program")?;
    Ok(program.try_into()?)
}

fn elf() -> Result<Vec<u8>> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let text = object.add_section(Vec::new(), b"classifier".to_vec(), SectionKind::Text);
    object.append_section_data(text, &INSTRUCTIONS, 8);
    object.add_symbol(Symbol {
        name: NAME.into(),
        value: 0,
        size: INSTRUCTIONS.len() as u64,
        kind: SymbolKind::Text,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Section(text),
        flags: SymbolFlags::None,
    });
    let license = object.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
    object.append_section_data(license, b"GPL\0", 1);
    Ok(object.write()?)
}
