//! Writes plain values as a pickle of protocol 2, with only those opcodes that every reader of
//! memory snapshots knows: Python's, and that of PyTorch's viewer in the browser.

use std::collections::HashMap;
use std::io::Write;

use super::opcode::*;
use crate::trace::error::TraceResult;
use crate::trace::formats::file::cannot_write;

/// Values that one opcode appends; the viewer passes them as arguments of one call.
const BATCH: usize = 1000;

/// Writes one pickle, value by value, from the outside in.
pub(crate) struct Pickler<'a> {
    out: &'a mut dyn Write,
    /// Texts written before, by their place in the memo.
    memo: HashMap<&'static str, u8>,
}

impl<'a> Pickler<'a> {
    pub(crate) fn new(out: &'a mut dyn Write) -> TraceResult<Self> {
        let mut this = Self {
            out,
            memo: HashMap::new(),
        };
        this.put(&[PROTO, 2])?;
        Ok(this)
    }

    pub(crate) fn finish(mut self) -> TraceResult<()> {
        self.put(&[STOP])
    }

    pub(crate) fn text(&mut self, text: &'static str) -> TraceResult<()> {
        if let Some(index) = self.memo.get(text) {
            let index = *index;
            return self.put(&[BINGET, index]);
        }
        self.put(&[BINUNICODE])?;
        // A literal of this crate, so short.
        self.put(&(text.len() as u32).to_le_bytes())?;
        self.put(text.as_bytes())?;
        if let Ok(index) = u8::try_from(self.memo.len()) {
            self.memo.insert(text, index);
            self.put(&[BINPUT, index])?;
        }
        Ok(())
    }

    pub(crate) fn int(&mut self, number: i64) -> TraceResult<()> {
        if let Ok(small) = u8::try_from(number) {
            return self.put(&[BININT1, small]);
        }
        if let Ok(middle) = i32::try_from(number) {
            self.put(&[BININT])?;
            return self.put(&middle.to_le_bytes());
        }
        self.put(&[LONG1, 8])?;
        self.put(&number.to_le_bytes())
    }

    pub(crate) fn number(&mut self, number: u64) -> TraceResult<()> {
        match i64::try_from(number) {
            Ok(number) => self.int(number),
            Err(_) => {
                // A ninth byte keeps the highest bit from being a sign.
                self.put(&[LONG1, 9])?;
                self.put(&number.to_le_bytes())?;
                self.put(&[0])
            }
        }
    }

    pub(crate) fn bool(&mut self, value: bool) -> TraceResult<()> {
        self.put(&[if value { NEWTRUE } else { NEWFALSE }])
    }

    pub(crate) fn float(&mut self, number: f64) -> TraceResult<()> {
        self.put(&[BINFLOAT])?;
        self.put(&number.to_be_bytes())
    }

    /// A pair of numbers.
    pub(crate) fn pair(&mut self, first: i64, second: i64) -> TraceResult<()> {
        self.int(first)?;
        self.int(second)?;
        self.put(&[TUPLE2])
    }

    pub(crate) fn empty_list(&mut self) -> TraceResult<()> {
        self.put(&[EMPTY_LIST])
    }

    /// A list whose items `item` writes.
    pub(crate) fn list<T>(
        &mut self,
        items: impl IntoIterator<Item = T>,
        mut item: impl FnMut(&mut Self, T) -> TraceResult<()>,
    ) -> TraceResult<()> {
        self.put(&[EMPTY_LIST])?;
        let mut open = 0;
        for one in items {
            if open == 0 {
                self.put(&[MARK])?;
            }
            item(self, one)?;
            open += 1;
            if open == BATCH {
                self.put(&[APPENDS])?;
                open = 0;
            }
        }
        if open > 0 {
            self.put(&[APPENDS])?;
        }
        Ok(())
    }

    /// A dictionary; `items` writes keys and values by turns.
    pub(crate) fn dict(
        &mut self,
        items: impl FnOnce(&mut Self) -> TraceResult<()>,
    ) -> TraceResult<()> {
        self.put(&[EMPTY_DICT, MARK])?;
        items(self)?;
        self.put(&[SETITEMS])
    }

    fn put(&mut self, bytes: &[u8]) -> TraceResult<()> {
        self.out.write_all(bytes).map_err(cannot_write)
    }
}
