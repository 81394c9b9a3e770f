//! How answers are printed: tables for people, JSON and YAML for programs.

use std::io::{self, Write};
use std::str::FromStr;

use anyhow::Context;
use serde::Serialize;
use tabwriter::TabWriter;

use crate::jsonpath::Template;

/// For programs.
#[derive(Clone, Debug)]
pub(crate) enum Format {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// What a template finds in the JSON.
    JsonPath(Template),
}

impl FromStr for Format {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text {
            "json" => Ok(Self::Json),
            "yaml" => Ok(Self::Yaml),
            _ => match text.strip_prefix("jsonpath=") {
                Some(template) => Ok(Self::JsonPath(template.parse()?)),
                None => anyhow::bail!("write json, yaml or jsonpath=TEMPLATE"),
            },
        }
    }
}

/// What a script learns by the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// 0.
    Yes,
    /// 1.
    No,
    /// 3: two sources of the answer contradict each other.
    Contradiction,
}

impl Verdict {
    pub(crate) fn of(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }
}

/// Where answers go, and how.
pub(crate) struct Out<W> {
    pub(crate) format: Option<Format>,
    writer: W,
}

impl<W: Write> Out<W> {
    pub(crate) fn new(format: Option<Format>, writer: W) -> Self {
        Self { format, writer }
    }

    /// Prints `value` for programs if they asked, else what `table` writes, its cells separated by tabs.
    pub(crate) fn print<T: Serialize>(
        &mut self,
        value: &T,
        table: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> anyhow::Result<()> {
        match self.format.clone() {
            None => {
                // Cilium's own widths.
                let mut writer = TabWriter::new(Vec::new()).minwidth(5).padding(3);
                table(&mut writer)?;
                let text = writer.into_inner().context("cannot lay out the table")?;
                for line in String::from_utf8_lossy(&text).lines() {
                    writeln!(self.writer, "{}", line.trim_end())?;
                }
            }
            Some(format) => self.structured(&format, value)?,
        }
        self.writer.flush()?;
        Ok(())
    }

    /// Prints `value` in a format for programs.
    pub(crate) fn structured<T: Serialize>(
        &mut self,
        format: &Format,
        value: &T,
    ) -> anyhow::Result<()> {
        match format {
            Format::Json => {
                serde_json::to_writer_pretty(&mut self.writer, value)?;
                writeln!(self.writer)?;
            }
            Format::Yaml => {
                let text = serde_saphyr::to_string(value).context("cannot write YAML")?;
                writeln!(self.writer, "{}", text.trim_end())?;
            }
            Format::JsonPath(template) => {
                let value = serde_json::to_value(value)?;
                write!(self.writer, "{}", template.fill(&value))?;
            }
        }
        Ok(())
    }

    /// Prints a line and has it seen at once.
    pub(crate) fn line(&mut self, line: &str) -> anyhow::Result<()> {
        writeln!(self.writer, "{line}")?;
        self.writer.flush()?;
        Ok(())
    }
}

/// Protocol by number, in capital letters as Cilium prints it.
pub(crate) fn protocol(number: u8) -> String {
    match number {
        0 => "ANY".to_owned(),
        1 => "ICMP".to_owned(),
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        58 => "ICMPv6".to_owned(),
        132 => "SCTP".to_owned(),
        other => other.to_string(),
    }
}
