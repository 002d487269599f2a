//! A page of text with headings and tables, under way.

#![forbid(unsafe_code)]

use crate::histogram::Histogram;
use crate::text;

/// Least characters of a line.
const WIDTH_MIN: usize = 40;

pub(super) struct Page {
    text: String,
    width: usize,
    top: usize,
}

impl Page {
    /// Lines of at most `width` characters, sections of at most `top` lines.
    pub(super) fn new(width: usize, top: usize) -> Self {
        Self {
            text: String::new(),
            width: width.max(WIDTH_MIN),
            top,
        }
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn top(&self) -> usize {
        self.top
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }

    pub(super) fn line(&mut self, line: &str) {
        text::line(&mut self.text, self.width, line);
    }

    pub(super) fn paragraph(&mut self, words: &str) {
        let mut text = String::new();
        text::paragraph(&mut text, self.width - 2, 2, words);
        for line in text.lines() {
            self.line(&format!("  {line}"));
        }
    }

    pub(super) fn heading(&mut self, heading: &str) {
        self.text.push('\n');
        self.line(heading);
    }

    /// Columns of names and widths, as many as there is room for; a line says which were left out.
    pub(super) fn table<T, const N: usize>(
        &mut self,
        columns: [(&str, usize); N],
        rows: &[T],
        row: impl Fn(&T) -> [String; N],
    ) {
        let ends = columns.iter().scan(1, |end, (_, width)| {
            *end += 1 + width;
            Some(*end)
        });
        let ends: Vec<usize> = ends.collect();
        let fitting = ends.iter().filter(|end| **end <= self.width).count();
        let line = |page: &mut Self, cells: [&str; N]| {
            let mut text = String::from(" ");
            for (cell, (_, width)) in cells.iter().zip(&columns).take(fitting) {
                text.push_str(&format!(" {cell:>width$}"));
            }
            page.line(&text);
        };
        line(self, columns.map(|(name, _)| name));
        for one in rows.iter().take(self.top) {
            let cells = row(one);
            line(self, cells.each_ref().map(String::as_str));
        }
        self.rest(rows.len());
        let left_out: Vec<_> = columns
            .iter()
            .skip(fitting)
            .map(|(name, _)| *name)
            .collect();
        if let (false, Some(widest)) = (left_out.is_empty(), ends.last()) {
            self.paragraph(&format!(
                "not shown: {}; a width of {widest} has room for them",
                left_out.join(", ")
            ));
        }
    }

    /// Says how many of a section's lines were left out, if any.
    pub(super) fn rest(&mut self, all: usize) {
        if all > self.top {
            self.line(&format!("  and {} more", all - self.top));
        }
    }

    pub(super) fn quantiles(
        &mut self,
        name: &str,
        histogram: &Histogram,
        show: &dyn Fn(u64) -> String,
    ) {
        let at = |part| histogram.quantile(part).map_or("-".to_owned(), show);
        self.line(&format!(
            "  {name:<9} p50 {:>10}  p90 {:>10}  p99 {:>10}  max {:>10}  of {}",
            at(0.5),
            at(0.9),
            at(0.99),
            histogram.max().map_or("-".to_owned(), show),
            text::samples(histogram.samples()),
        ));
    }
}
