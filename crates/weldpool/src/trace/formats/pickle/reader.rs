//! Reads a pickle into a tree of plain values.
//!
//! The values stand in one table and refer to each other by number, so a value that a pickle uses
//! many times exists once, nesting costs no stack, and memory grows no faster than the file.

use std::io::BufRead;

use super::opcode::*;
use crate::trace::error::{TraceError, TraceErrorKind, TraceResult};

/// Number of a value in a [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeId(u32);

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Box<str>),
    Bytes,
    /// A list, a tuple or a set.
    List(Vec<NodeId>),
    Dict(Vec<(NodeId, NodeId)>),
    /// What only running Python code could make: an object, a class, an integer beyond 128 bits.
    Opaque,
}

/// What a pickle may hold at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) bytes: u64,
    pub(crate) nodes: usize,
    pub(crate) text_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 4 << 30,
            nodes: 1 << 26,
            text_bytes: 1 << 24,
        }
    }
}

/// The values of a pickle.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    root: NodeId,
}

impl Tree {
    /// Reads one pickle.
    pub(crate) fn read(input: impl BufRead, limits: Limits) -> TraceResult<Self> {
        let mut machine = Machine {
            input,
            offset: 0,
            limits,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: Vec::new(),
        };
        let root = machine.run().map_err(|error| match error.offset() {
            Some(_) => error,
            None => error.at_offset(machine.offset),
        })?;
        Ok(Self {
            nodes: machine.nodes,
            root,
        })
    }

    pub(crate) fn root(&self) -> NodeId {
        self.root
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// The value of a dictionary's key.
    pub(crate) fn get(&self, id: NodeId, key: &str) -> Option<NodeId> {
        match self.node(id) {
            Node::Dict(items) => items
                .iter()
                .rev()
                .find(|(name, _)| self.text(*name) == Some(key))
                .map(|(_, value)| *value),
            _ => None,
        }
    }

    pub(crate) fn list(&self, id: NodeId) -> Option<&[NodeId]> {
        match self.node(id) {
            Node::List(items) => Some(items),
            _ => None,
        }
    }

    pub(crate) fn text(&self, id: NodeId) -> Option<&str> {
        match self.node(id) {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// An integer's lowest 64 bits, so that addresses and handles keep theirs whatever their sign.
    pub(crate) fn number(&self, id: NodeId) -> Option<u64> {
        match self.node(id) {
            Node::Int(number) => Some(*number as u64),
            _ => None,
        }
    }
}

struct Machine<R> {
    input: R,
    offset: u64,
    limits: Limits,
    nodes: Vec<Node>,
    stack: Vec<NodeId>,
    marks: Vec<usize>,
    memo: Vec<Option<NodeId>>,
}

impl<R: BufRead> Machine<R> {
    fn run(&mut self) -> TraceResult<NodeId> {
        loop {
            let [opcode] = self.take()?;
            if self.stack.len() > self.limits.nodes || self.marks.len() > self.limits.nodes {
                return Err(limit(
                    "values wait to be put together",
                    self.limits.nodes as u64,
                ));
            }
            match opcode {
                STOP => return self.pop(),
                PROTO => {
                    let [protocol] = self.take()?;
                    if protocol > PROTOCOL_MAX {
                        return Err(unsupported(format!(
                            "the pickle is of protocol {protocol}; up to {PROTOCOL_MAX} can be read"
                        )));
                    }
                }
                FRAME => drop(self.take::<8>()?),
                MARK => self.marks.push(self.stack.len()),
                POP => drop(self.pop()?),
                POP_MARK => drop(self.pop_to_mark()?),
                DUP => {
                    let top = self.top()?;
                    self.stack.push(top);
                }
                _ => self.value(opcode)?,
            }
        }
    }

    /// Opcodes that make or change a value.
    fn value(&mut self, opcode: u8) -> TraceResult<()> {
        match opcode {
            NONE => self.push(Node::None),
            NEWTRUE => self.push(Node::Bool(true)),
            NEWFALSE => self.push(Node::Bool(false)),
            BININT => {
                let number = i32::from_le_bytes(self.take()?);
                self.push(Node::Int(number.into()))
            }
            BININT1 => {
                let [number] = self.take()?;
                self.push(Node::Int(number.into()))
            }
            BININT2 => {
                let number = u16::from_le_bytes(self.take()?);
                self.push(Node::Int(number.into()))
            }
            LONG1 => {
                let [bytes] = self.take()?;
                self.long(bytes.into())
            }
            LONG4 => {
                let bytes = u32::from_le_bytes(self.take()?);
                self.long(bytes.into())
            }
            BINFLOAT => {
                let number = f64::from_be_bytes(self.take()?);
                self.push(Node::Float(number))
            }
            BINUNICODE | BINSTRING => {
                let bytes = u32::from_le_bytes(self.take()?);
                self.text(bytes.into())
            }
            SHORT_BINUNICODE | SHORT_BINSTRING => {
                let [bytes] = self.take()?;
                self.text(bytes.into())
            }
            BINUNICODE8 => {
                let bytes = u64::from_le_bytes(self.take()?);
                self.text(bytes)
            }
            BINBYTES => {
                let bytes = u32::from_le_bytes(self.take()?);
                self.bytes(bytes.into())
            }
            SHORT_BINBYTES => {
                let [bytes] = self.take()?;
                self.bytes(bytes.into())
            }
            BINBYTES8 | BYTEARRAY8 => {
                let bytes = u64::from_le_bytes(self.take()?);
                self.bytes(bytes)
            }
            BINPUT => {
                let [index] = self.take()?;
                self.memoize(index.into())
            }
            LONG_BINPUT => {
                let index = u32::from_le_bytes(self.take()?);
                self.memoize(index as usize)
            }
            MEMOIZE => self.memoize(self.memo.len()),
            BINGET => {
                let [index] = self.take()?;
                self.recall(index.into())
            }
            LONG_BINGET => {
                let index = u32::from_le_bytes(self.take()?);
                self.recall(index as usize)
            }
            EMPTY_LIST | EMPTY_TUPLE | EMPTY_SET => self.push(Node::List(Vec::new())),
            EMPTY_DICT => self.push(Node::Dict(Vec::new())),
            _ => self.gather(opcode),
        }
    }

    /// Opcodes that put values together.
    fn gather(&mut self, opcode: u8) -> TraceResult<()> {
        match opcode {
            TUPLE1 | TUPLE2 | TUPLE3 => {
                let from = self.below(usize::from(opcode - TUPLE1) + 1)?;
                let items = self.stack.split_off(from);
                self.push(Node::List(items))
            }
            TUPLE | LIST | FROZENSET => {
                let items = self.pop_to_mark()?;
                self.push(Node::List(items))
            }
            DICT => {
                let items = self.pop_to_mark()?;
                let pairs = self.pairs(&items)?;
                self.push(Node::Dict(pairs))
            }
            APPEND => {
                let item = self.pop()?;
                self.extend(&[item])
            }
            APPENDS | ADDITEMS => {
                let items = self.pop_to_mark()?;
                self.extend(&items)
            }
            SETITEM => {
                let from = self.below(2)?;
                let items = self.stack.split_off(from);
                self.insert(&items)
            }
            SETITEMS => {
                let items = self.pop_to_mark()?;
                self.insert(&items)
            }
            _ => self.object(opcode),
        }
    }

    /// Opcodes by which Python would import, call or construct. Only their operands are taken.
    fn object(&mut self, opcode: u8) -> TraceResult<()> {
        let operands = match opcode {
            GLOBAL => {
                self.skip_line()?;
                self.skip_line()?;
                0
            }
            BINPERSID => 1,
            STACK_GLOBAL | REDUCE | NEWOBJ => 2,
            NEWOBJ_EX => 3,
            // The state of an object that stays where it is.
            BUILD => return self.pop().map(drop),
            _ => {
                return Err(unsupported(format!(
                    "the pickle has the opcode {opcode:#04x}, which no memory snapshot needs"
                )));
            }
        };
        let from = self.below(operands)?;
        self.stack.truncate(from);
        self.push(Node::Opaque)
    }

    fn push(&mut self, node: Node) -> TraceResult<()> {
        if self.nodes.len() >= self.limits.nodes {
            return Err(limit("values", self.limits.nodes as u64));
        }
        let id = u32::try_from(self.nodes.len()).map_err(|_| limit("values", u32::MAX.into()))?;
        self.nodes.push(node);
        self.stack.push(NodeId(id));
        Ok(())
    }

    /// Where the last `count` values begin; none of them may stand before the last mark.
    fn below(&self, count: usize) -> TraceResult<usize> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let from = self.stack.len().checked_sub(count);
        from.filter(|from| *from >= floor).ok_or_else(too_few)
    }

    fn pop(&mut self) -> TraceResult<NodeId> {
        self.below(1)?;
        self.stack.pop().ok_or_else(too_few)
    }

    fn top(&self) -> TraceResult<NodeId> {
        self.stack.last().copied().ok_or_else(too_few)
    }

    fn pop_to_mark(&mut self) -> TraceResult<Vec<NodeId>> {
        let mark = self.marks.pop().ok_or_else(too_few)?;
        if mark > self.stack.len() {
            return Err(too_few());
        }
        Ok(self.stack.split_off(mark))
    }

    fn pairs(&self, items: &[NodeId]) -> TraceResult<Vec<(NodeId, NodeId)>> {
        if !items.len().is_multiple_of(2) {
            return Err(wrong("a dictionary has a key without a value"));
        }
        Ok(items
            .chunks_exact(2)
            .map(|pair| (pair[0], pair[1]))
            .collect())
    }

    fn extend(&mut self, items: &[NodeId]) -> TraceResult<()> {
        let target = self.top()?;
        match &mut self.nodes[target.0 as usize] {
            Node::List(list) => list.extend_from_slice(items),
            Node::Opaque => {}
            _ => return Err(wrong("values are appended to what is no list")),
        }
        Ok(())
    }

    fn insert(&mut self, items: &[NodeId]) -> TraceResult<()> {
        let pairs = self.pairs(items)?;
        let target = self.top()?;
        match &mut self.nodes[target.0 as usize] {
            Node::Dict(dict) => dict.extend(pairs),
            Node::Opaque => {}
            _ => return Err(wrong("keys are set in what is no dictionary")),
        }
        Ok(())
    }

    fn memoize(&mut self, index: usize) -> TraceResult<()> {
        let top = self.top()?;
        // Python numbers them without gaps; an index beyond all values would only cost memory.
        if index > self.nodes.len() + self.memo.len() {
            return Err(wrong(format!(
                "the memo index {index} has no value before it"
            )));
        }
        if index >= self.limits.nodes {
            return Err(limit("remembered values", self.limits.nodes as u64));
        }
        if index >= self.memo.len() {
            self.memo.resize(index + 1, None);
        }
        self.memo[index] = Some(top);
        Ok(())
    }

    fn recall(&mut self, index: usize) -> TraceResult<()> {
        let known = self.memo.get(index).copied().flatten();
        let id = known.ok_or_else(|| wrong(format!("nothing is remembered as {index}")))?;
        self.stack.push(id);
        Ok(())
    }

    fn long(&mut self, bytes: u64) -> TraceResult<()> {
        if bytes > 16 {
            self.bytes(bytes)?;
            self.pop()?;
            return self.push(Node::Opaque);
        }
        let mut number = [0; 16];
        let used = &mut number[..bytes as usize];
        self.read_exact(used)?;
        if used.last().is_some_and(|last| last & 0x80 != 0) {
            number[bytes as usize..].fill(0xff);
        }
        self.push(Node::Int(i128::from_le_bytes(number)))
    }

    fn text(&mut self, bytes: u64) -> TraceResult<()> {
        let fits = usize::try_from(bytes).ok();
        let Some(bytes) = fits.filter(|bytes| *bytes <= self.limits.text_bytes) else {
            return Err(limit("bytes of one text", self.limits.text_bytes as u64));
        };
        let mut text = Vec::new();
        // Grows as it is read, so that a false length costs nothing.
        let mut left = bytes;
        while left > 0 {
            let part = left.min(1 << 16);
            let from = text.len();
            text.resize(from + part, 0);
            self.read_exact(&mut text[from..])?;
            left -= part;
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        self.push(Node::Text(text.into_boxed_str()))
    }

    fn bytes(&mut self, bytes: u64) -> TraceResult<()> {
        let mut left = bytes;
        let mut part = [0; 4096];
        while left > 0 {
            let now = left.min(part.len() as u64) as usize;
            self.read_exact(&mut part[..now])?;
            left -= now as u64;
        }
        self.push(Node::Bytes)
    }

    fn skip_line(&mut self) -> TraceResult<()> {
        for _ in 0..self.limits.text_bytes {
            if self.take()? == [b'\n'] {
                return Ok(());
            }
        }
        Err(limit("bytes of one name", self.limits.text_bytes as u64))
    }

    fn take<const N: usize>(&mut self) -> TraceResult<[u8; N]> {
        let mut bytes = [0; N];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn read_exact(&mut self, into: &mut [u8]) -> TraceResult<()> {
        if self.offset.saturating_add(into.len() as u64) > self.limits.bytes {
            return Err(limit("bytes", self.limits.bytes));
        }
        self.input.read_exact(into).map_err(|error| {
            if error.kind() == std::io::ErrorKind::UnexpectedEof {
                wrong("the pickle ends before it is complete")
            } else {
                TraceError::io("the trace cannot be read", error)
            }
        })?;
        self.offset += into.len() as u64;
        Ok(())
    }
}

fn wrong(message: impl Into<String>) -> TraceError {
    TraceError::new(TraceErrorKind::Format, message)
}

fn too_few() -> TraceError {
    wrong("an opcode needs more values than there are")
}

fn unsupported(message: String) -> TraceError {
    TraceError::new(TraceErrorKind::Unsupported, message)
}

fn limit(what: &str, most: u64) -> TraceError {
    TraceError::new(
        TraceErrorKind::Limit,
        format!("the pickle has more than {most} {what}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> TraceResult<Tree> {
        Tree::read(bytes, Limits::default())
    }

    #[test]
    fn plain_values_are_read() {
        // {"a": [1, -2, 300, 1 << 40], "b": (None, True, 0.5)}
        let bytes = b"\x80\x02}(X\x01\0\0\0a](K\x01J\xfe\xff\xff\xffM\x2c\x01\
            \x8a\x06\0\0\0\0\0\x01eX\x01\0\0\0bN\x88G\x3f\xe0\0\0\0\0\0\0\x87u.";
        let tree = read(bytes).unwrap();
        let a = tree.get(tree.root(), "a").unwrap();
        let numbers: Vec<_> = tree
            .list(a)
            .unwrap()
            .iter()
            .map(|id| tree.number(*id))
            .collect();
        assert_eq!(
            numbers,
            [
                Some(1),
                Some(2_u64.wrapping_neg()),
                Some(300),
                Some(1 << 40)
            ]
        );
        let b = tree.list(tree.get(tree.root(), "b").unwrap()).unwrap();
        assert_eq!(tree.node(b[0]), &Node::None);
        assert_eq!(tree.node(b[1]), &Node::Bool(true));
        assert_eq!(tree.node(b[2]), &Node::Float(0.5));
    }

    #[test]
    fn nothing_is_called_or_imported() {
        // os.system("x"), then used as a dictionary
        let bytes = b"\x80\x02cos\nsystem\nX\x01\0\0\0x\x85RX\x01\0\0\0kK\x01s.";
        let tree = read(bytes).unwrap();
        assert_eq!(tree.node(tree.root()), &Node::Opaque);
    }

    #[test]
    fn a_value_that_contains_itself_many_times_costs_no_memory() {
        // Sixty lists, each with the former one twice.
        let mut bytes = b"\x80\x02]q\0".to_vec();
        for index in 0..60 {
            bytes.extend([
                b'0',
                b']',
                b'q',
                index + 1,
                b'(',
                b'h',
                index,
                b'h',
                index,
                b'e',
            ]);
        }
        bytes.push(b'.');
        assert!(read(&bytes).unwrap().nodes.len() < 100);
        // A list within itself.
        assert!(read(b"\x80\x02]q\0(h\0e.").is_ok());
    }

    #[test]
    fn wrong_pickles_are_errors_with_an_offset() {
        for (bytes, kind) in [
            (&b"\x80\x06."[..], TraceErrorKind::Unsupported),
            (b"\x80\x02I1\n.", TraceErrorKind::Unsupported),
            (b"\x80\x02", TraceErrorKind::Format),
            (b"\x80\x02.", TraceErrorKind::Format),
            (b"\x80\x02e.", TraceErrorKind::Format),
            (b"\x80\x02(e.", TraceErrorKind::Format),
            (b"\x80\x02}(K\x01u.", TraceErrorKind::Format),
            (b"\x80\x02K\x01K\x02a.", TraceErrorKind::Format),
            (b"\x80\x02h\x07.", TraceErrorKind::Format),
            (b"\x80\x02Nr\xff\xff\xff\x7f.", TraceErrorKind::Format),
            (b"\x80\x02]K\x01(\x86.", TraceErrorKind::Format),
            (b"\x80\x02X\xff\xff\xff\x7f", TraceErrorKind::Limit),
            (b"\x80\x02X\0\0\x10\0abc", TraceErrorKind::Format),
            (
                b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xff",
                TraceErrorKind::Format,
            ),
        ] {
            let error = read(bytes).unwrap_err();
            assert_eq!(error.kind(), kind, "{bytes:?}: {error}");
            assert!(error.offset().is_some(), "{bytes:?}");
        }
        let few = Limits {
            nodes: 3,
            ..Limits::default()
        };
        let error = Tree::read(&b"\x80\x02NNNNN."[..], few).unwrap_err();
        assert_eq!(error.kind(), TraceErrorKind::Limit);
        let short = Limits {
            bytes: 4,
            ..Limits::default()
        };
        let error = Tree::read(&b"\x80\x02NNNNN."[..], short).unwrap_err();
        assert_eq!(error.kind(), TraceErrorKind::Limit);
    }

    #[test]
    fn no_sequence_of_bytes_panics() {
        let mut state = 1_u64;
        for _ in 0..20_000 {
            let mut bytes = vec![PROTO, 2];
            for _ in 0..40 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                bytes.push((state >> 56) as u8);
            }
            let _read = read(&bytes);
        }
    }
}
