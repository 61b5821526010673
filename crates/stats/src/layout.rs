//! What the cells of a flat table mean.

use std::collections::BTreeMap;
use std::ops::Range;

/// A named run of cells of a [`Layout`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    name: String,
    cells: Range<usize>,
}

impl Section {
    /// The name, like `e0.alone.sum`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cells it covers.
    pub fn range(&self) -> Range<usize> {
        self.cells.clone()
    }

    /// How many cells it covers.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether it covers no cell.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }
}

/// The names and lengths of the sections of a flat table, in order: what a query's answer looks like.
///
/// Exits are counted from 0 in names, as everywhere in the code (METHOD counts them from 1).
#[derive(Clone, Debug, Default)]
pub struct Layout {
    sections: Vec<Section>,
    by_name: BTreeMap<String, usize>,
    cells: usize,
}

impl Layout {
    /// Lays sections of the given names and lengths end to end.
    ///
    /// Names are distinct in every layout of this crate; if one came twice, the first would be found.
    /// Lengths that together pass `usize::MAX` stay there, so a nonsensical shape is a layout that no
    /// table fits rather than one that wrapped.
    pub fn new(sections: impl IntoIterator<Item = (String, usize)>) -> Self {
        let mut layout = Self::default();
        for (name, len) in sections {
            let start = layout.cells;
            layout.cells = start.saturating_add(len);
            layout.by_name.entry(name.clone()).or_insert(layout.sections.len());
            layout.sections.push(Section { name, cells: start..layout.cells });
        }
        layout
    }

    /// How many cells a table of this layout has.
    pub fn cells(&self) -> usize {
        self.cells
    }

    /// The cells of the section called `name`.
    pub fn range(&self, name: &str) -> Option<Range<usize>> {
        let section = self.sections.get(*self.by_name.get(name)?)?;
        Some(section.range())
    }

    /// The sections in order.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_lie_end_to_end() {
        let layout = Layout::new([("a".to_owned(), 2), ("b".to_owned(), 0), ("c".to_owned(), 3)]);
        assert_eq!(layout.cells(), 5);
        assert_eq!(layout.range("a"), Some(0..2));
        assert_eq!(layout.range("b"), Some(2..2));
        assert_eq!(layout.range("c"), Some(2..5));
        assert_eq!(layout.range("d"), None);
        assert_eq!(layout.sections()[2].name(), "c");
        assert_eq!(layout.sections()[2].len(), 3);
        assert!(layout.sections()[1].is_empty());
    }

    #[test]
    fn nonsensical_lengths_do_not_wrap() {
        let layout = Layout::new([("a".to_owned(), usize::MAX), ("b".to_owned(), 8)]);
        assert_eq!(layout.cells(), usize::MAX);
    }
}
