//! What is looked at in a table before it is stored: whether it is one, and how large its numbers are.

use exeunt_protocol::message::Rejection;
use exeunt_stats::packed::{Decoder, PackError};
use exeunt_store::{Packed, StageId};

/// Looks at a table whose bytes come in parts.
#[derive(Debug)]
pub struct Intake {
    cells: usize,
    decoder: Decoder,
    largest: Largest,
    wrong: Option<PackError>,
}

/// The number that is furthest from zero: the first, if several are.
#[derive(Debug, Clone, Copy, Default)]
struct Largest {
    cell: usize,
    number: i64,
}

/// A table that was looked at, and where its bytes are.
#[derive(Debug)]
pub struct Delivered {
    pub(crate) packed: Packed,
    /// For how many cells it was looked at; none where it was not.
    cells: Option<usize>,
    looked: Result<Largest, PackError>,
}

impl Intake {
    /// Waits for a table of `cells` cells.
    pub fn new(cells: usize) -> Self {
        Self { cells, decoder: Decoder::new(cells), largest: Largest::default(), wrong: None }
    }

    /// Takes the next bytes. What follows something that is wrong is not looked at.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.wrong.is_some() {
            return;
        }
        let most = &mut self.largest;
        let looked = self.decoder.push(bytes, |first, block| {
            // Without a branch per cell: few blocks have a number that is larger than all before.
            let largest = block.iter().fold(0, |largest, cell| largest.max(cell.unsigned_abs()));
            if largest > most.number.unsigned_abs()
                && let Some(at) = block.iter().position(|cell| cell.unsigned_abs() == largest)
            {
                *most = Largest { cell: first + at, number: block[at] };
            }
            Ok(())
        });
        self.wrong = looked.err();
    }

    /// All bytes were pushed, and are at hand.
    pub fn whole(self, bytes: Vec<u8>) -> Delivered {
        Delivered { packed: Packed::Whole(bytes), cells: Some(self.cells), looked: self.finish() }
    }

    /// All bytes were pushed, and are staged in the store.
    pub fn staged(self, staged: StageId) -> Delivered {
        Delivered { packed: Packed::Staged(staged), cells: Some(self.cells), looked: self.finish() }
    }

    fn finish(self) -> Result<Largest, PackError> {
        match self.wrong {
            Some(wrong) => Err(wrong),
            None => self.decoder.finish().map(|()| self.largest),
        }
    }
}

impl Delivered {
    /// A table that the store has already, from the same node as an answer to the same query. It was looked at then.
    pub fn kept() -> Self {
        Self { packed: Packed::Kept, cells: None, looked: Ok(Largest::default()) }
    }

    /// Whether it is a table of so many cells none of whose numbers is more than `most` either way.
    pub(crate) fn check(&self, cells: usize, most: u64) -> Result<(), Rejection> {
        let malformed = |what: String| Err(Rejection::Malformed { what });
        if let Some(found) = self.cells.filter(|found| *found != cells) {
            return malformed(format!("a table of {found} cells, expected {cells}"));
        }
        match &self.looked {
            Err(error) => malformed(error.to_string()),
            Ok(Largest { cell, number }) if number.unsigned_abs() > most => {
                malformed(format!("cell {cell} is {number}, expected at most {most} either way"))
            }
            Ok(_) => Ok(()),
        }
    }
}
