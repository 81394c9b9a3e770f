//! Text to trees: YAML files of many documents (JSON is YAML), within limits.
//!
//! Scalars mean what they mean to `kubectl` (YAML 1.1), because the same files are applied with it; what the
//! two versions of YAML read differently (`010`) is refused instead of guessed.

mod scalar;

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Marker, Parser, ScanError, Span, StrInput};
use thiserror::Error;

use crate::tree::{Member, Node, Position, Value};
use scalar::{collection_tag, scalar};

/// How much a file may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a file.
    pub bytes: usize,
    /// Levels of nesting.
    pub depth: usize,
    /// Values in a file, those that aliases repeat counted each time.
    pub nodes: usize,
}

impl Default for Limits {
    /// 32 MiB, 64 levels, 4 million values: far above what an API server would store.
    fn default() -> Self {
        Self {
            bytes: 32 << 20,
            depth: 64,
            nodes: 4_000_000,
        }
    }
}

/// Why a text is no sequence of documents.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{problem}")]
pub struct ReadError {
    /// Where.
    pub position: Position,
    /// What.
    pub problem: ReadProblem,
}

/// What is wrong with a text.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReadProblem {
    /// Neither YAML nor JSON.
    #[error("not valid YAML: {0}; check indentation (spaces, no tabs), quotes and colons")]
    Syntax(String),
    /// Not UTF-8.
    #[error("not UTF-8; save the file in that encoding")]
    Encoding,
    /// A mapping has a field twice.
    #[error("field {name:?} is given twice (first on line {first}); keep one of them")]
    Duplicate {
        /// The name.
        name: String,
        /// Line of the first one.
        first: u32,
    },
    /// A name is not a text.
    #[error("{found} is not allowed as a field name; quote it: \"…\"")]
    Name {
        /// What it is.
        found: &'static str,
    },
    /// A number with a leading zero.
    #[error(
        "{text} means {octal} to some YAML readers and {decimal} to others; write the number without the leading zero, or quote a text"
    )]
    LeadingZero {
        /// As written.
        text: String,
        /// Read as octal.
        octal: String,
        /// Read as decimal.
        decimal: String,
    },
    /// A number that no field can hold.
    #[error("{text} is not a number that JSON can hold; quote it if it is a text")]
    Number {
        /// As written.
        text: String,
    },
    /// `<<`.
    #[error("merge keys (`<<`) are not supported; write the fields out")]
    Merge,
    /// A tag other than those of JSON's types.
    #[error(
        "tag {tag} is not supported; allowed are !!str, !!int, !!float, !!bool, !!null, !!seq and !!map where the value fits"
    )]
    Tag {
        /// As written.
        tag: String,
    },
    /// An alias without its anchor before it in the same document.
    #[error(
        "this alias names no anchor that is complete before it in the same document; write the value out"
    )]
    Alias,
    /// More bytes than [`Limits::bytes`].
    #[error("the file has {bytes} bytes, at most {limit} are read; split it")]
    Bytes {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Deeper than [`Limits::depth`].
    #[error("nested more than {limit} levels deep; no manifest needs that")]
    Depth {
        /// The limit.
        limit: usize,
    },
    /// More than [`Limits::nodes`].
    #[error(
        "more than {limit} values (aliases are counted each time they are used); split the file or write fewer aliases"
    )]
    Nodes {
        /// The limit.
        limit: usize,
    },
}

/// What a text holds up to its end or its first error: documents before a syntax error can be told about, but
/// nobody may act on half a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Documents {
    /// The documents, empty ones left out.
    pub documents: Vec<Node>,
    /// Why reading stopped.
    pub error: Option<ReadError>,
}

/// Reads all documents of a text.
///
/// # Errors
/// The first thing that is not YAML, is refused by this reader, or exceeds a limit.
pub fn read(text: &[u8], limits: &Limits) -> Result<Vec<Node>, ReadError> {
    let read = read_lossy(text, limits);
    match read.error {
        Some(error) => Err(error),
        None => Ok(read.documents),
    }
}

/// Reads documents up to the first error.
pub fn read_lossy(text: &[u8], limits: &Limits) -> Documents {
    let stop = |error| Documents {
        documents: Vec::new(),
        error: Some(error),
    };
    if text.len() > limits.bytes {
        return stop(ReadError {
            position: Position { line: 1, column: 1 },
            problem: ReadProblem::Bytes {
                bytes: text.len(),
                limit: limits.bytes,
            },
        });
    }
    let text = match std::str::from_utf8(text) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => {
            let before = String::from_utf8_lossy(&text[..error.valid_up_to()]);
            return stop(ReadError {
                position: end_of(&before),
                problem: ReadProblem::Encoding,
            });
        }
    };
    let mut builder = Builder::new(limits);
    let mut parser = Parser::new_from_str(text);
    let error = builder.run(&mut parser).err();
    Documents {
        documents: builder.documents,
        error,
    }
}

fn end_of(text: &str) -> Position {
    let line = text.lines().count().max(1);
    let column = text.lines().last().map_or(0, |last| last.chars().count()) + 1;
    Position {
        line: u32::try_from(line).unwrap_or(u32::MAX),
        column: u32::try_from(column).unwrap_or(u32::MAX),
    }
}

fn position(marker: Marker) -> Position {
    Position {
        line: u32::try_from(marker.line()).unwrap_or(u32::MAX),
        column: u32::try_from(marker.col() + 1).unwrap_or(u32::MAX),
    }
}

enum Open {
    List {
        items: Vec<Node>,
        at: Position,
        anchor: usize,
    },
    Object {
        members: Vec<Member>,
        names: HashSet<Box<str>>,
        pending: Option<(Box<str>, Position)>,
        at: Position,
        anchor: usize,
    },
}

struct Builder<'a> {
    limits: &'a Limits,
    documents: Vec<Node>,
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, (Node, Size)>,
    nodes: usize,
}

/// What a value costs when an alias repeats it.
#[derive(Clone, Copy)]
struct Size {
    nodes: usize,
    depth: usize,
}

impl<'a> Builder<'a> {
    fn new(limits: &'a Limits) -> Self {
        Self {
            limits,
            documents: Vec::new(),
            open: Vec::new(),
            root: None,
            anchors: HashMap::new(),
            nodes: 0,
        }
    }

    fn run(&mut self, parser: &mut Parser<'_, StrInput<'_>>) -> Result<(), ReadError> {
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(|error| syntax(&error))?;
            self.event(event, span)?;
        }
        Ok(())
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), ReadError> {
        let at = position(span.start);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.anchors.clear();
                self.root = None;
                Ok(())
            }
            Event::DocumentEnd => {
                if let Some(root) = self.root.take().filter(|root| root.value != Value::Null) {
                    self.documents.push(root);
                }
                Ok(())
            }
            Event::Alias(anchor) => {
                let Some((node, size)) = self.anchors.get(&anchor).cloned() else {
                    return Err(refuse(at, ReadProblem::Alias));
                };
                self.count(size.nodes, at)?;
                self.deepen(size.depth, at)?;
                self.add(node, at)
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.count(1, at)?;
                let node = Node {
                    value: scalar(&text, style, tag.as_deref(), at)?,
                    position: at,
                };
                self.remember(anchor, &node);
                self.add(node, at)
            }
            Event::SequenceStart(anchor, tag) => {
                collection_tag(tag.as_deref(), "seq", at)?;
                self.count(1, at)?;
                self.open.push(Open::List {
                    items: Vec::new(),
                    at,
                    anchor,
                });
                self.deepen(0, at)
            }
            Event::MappingStart(anchor, tag) => {
                collection_tag(tag.as_deref(), "map", at)?;
                self.count(1, at)?;
                self.open.push(Open::Object {
                    members: Vec::new(),
                    names: HashSet::new(),
                    pending: None,
                    at,
                    anchor,
                });
                self.deepen(0, at)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
        }
    }

    fn close(&mut self) -> Result<(), ReadError> {
        let (node, anchor) = match self.open.pop() {
            Some(Open::List { items, at, anchor }) => (
                Node {
                    value: Value::List(items),
                    position: at,
                },
                anchor,
            ),
            Some(Open::Object {
                members,
                at,
                anchor,
                ..
            }) => (
                Node {
                    value: Value::Object(members),
                    position: at,
                },
                anchor,
            ),
            None => return Ok(()),
        };
        self.remember(anchor, &node);
        let at = node.position;
        self.add(node, at)
    }

    fn remember(&mut self, anchor: usize, node: &Node) {
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), size(node)));
        }
    }

    fn count(&mut self, nodes: usize, at: Position) -> Result<(), ReadError> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > self.limits.nodes {
            return Err(refuse(
                at,
                ReadProblem::Nodes {
                    limit: self.limits.nodes,
                },
            ));
        }
        Ok(())
    }

    fn deepen(&self, more: usize, at: Position) -> Result<(), ReadError> {
        if self.open.len() + more > self.limits.depth {
            return Err(refuse(
                at,
                ReadProblem::Depth {
                    limit: self.limits.depth,
                },
            ));
        }
        Ok(())
    }

    fn add(&mut self, node: Node, at: Position) -> Result<(), ReadError> {
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Object {
                members,
                names,
                pending,
                ..
            }) => {
                if let Some((name, position)) = pending.take() {
                    members.push(Member {
                        name,
                        position,
                        node,
                    });
                    return Ok(());
                }
                let name = field_name(node, at)?;
                if !names.insert(name.clone()) {
                    let first = members
                        .iter()
                        .find(|member| member.name == name)
                        .map_or(0, |member| member.position.line);
                    let name = name.into();
                    return Err(refuse(at, ReadProblem::Duplicate { name, first }));
                }
                *pending = Some((name, at));
            }
        }
        Ok(())
    }
}

fn size(node: &Node) -> Size {
    let children: Vec<Size> = match &node.value {
        Value::List(items) => items.iter().map(size).collect(),
        Value::Object(members) => members.iter().map(|member| size(&member.node)).collect(),
        _ => return Size { nodes: 1, depth: 0 },
    };
    Size {
        nodes: 1 + children.iter().map(|child| child.nodes).sum::<usize>(),
        depth: 1 + children.iter().map(|child| child.depth).max().unwrap_or(0),
    }
}

fn refuse(position: Position, problem: ReadProblem) -> ReadError {
    ReadError { position, problem }
}

fn syntax(error: &ScanError) -> ReadError {
    refuse(
        position(*error.marker()),
        ReadProblem::Syntax(error.info().to_owned()),
    )
}

/// Names are texts; a whole number becomes its text, as the API server's JSON would have it.
fn field_name(node: Node, at: Position) -> Result<Box<str>, ReadError> {
    match node.value {
        Value::Text(text) if &*text == "<<" => Err(refuse(at, ReadProblem::Merge)),
        Value::Text(text) => Ok(text),
        Value::Integer(number) => Ok(number.to_string().into()),
        _ => Err(refuse(at, ReadProblem::Name { found: node.kind() })),
    }
}
