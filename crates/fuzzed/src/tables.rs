//! Tables: as they travel, added up, and read by the program of a run.

use exeunt_exits::{Part, Policy, PolicyRequest, Program, Query, Rule, RunResult, Times, node_curve, shifts};
use exeunt_stats::packed::{self, Decoder, PackError};
use exeunt_stats::{MomentsView, Table};

use crate::honest;

/// Most questions that a program is followed for.
const QUESTIONS: usize = 40;

/// A choice (one byte): a packed table of a number of cells that follows (two bytes), or edits to the sums that a program
/// reads, one question after the other.
///
/// # Panics
/// When two ways of reading a table disagree, or a table that was taken is not written as it was.
pub fn tables(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else { return };
    if choice % 2 == 1 {
        return program(rest);
    }
    if let Some((&[high, low], bytes)) = rest.split_first_chunk() {
        packed_table(bytes, usize::from(u16::from_be_bytes([high, low]) % 5000));
    }
}

fn packed_table(bytes: &[u8], cells: usize) {
    let mut target = vec![7; cells];
    let into = packed::decode_into(bytes, &mut target);
    let digest = packed::digest(bytes, cells);
    let (mut sum, start) = (Table::zeros(cells), Table::zeros(cells));
    let merged = sum.merge_packed(bytes);
    assert_eq!(by_parts(bytes, cells), packed::decode(bytes, cells).ok());
    let decoded = match packed::decode(bytes, cells) {
        Ok(decoded) => decoded,
        Err(error) => {
            assert_eq!((into, digest, sum), (Err(error), Err(error), start));
            assert!(merged.is_err());
            return;
        }
    };
    assert!(bytes.len() <= packed::max_len(cells));
    assert_eq!(packed::encode(&decoded), bytes);
    let table = Table::from_cells(decoded);
    assert_eq!((into, digest, merged), (Ok(()), Ok(table.digest()), Ok(())));
    assert_eq!((target, &sum), (table.cells().to_vec(), &table));
    let twice = sum.merge_packed(bytes);
    assert_eq!(twice.is_ok(), table.cells().iter().all(|cell| cell.checked_mul(2).is_some()));
    if twice.is_ok() {
        assert_eq!(sum.subtract_packed(bytes), Ok(()));
    }
    assert_eq!(sum, table);
    // What is taken out of nothing is the table with its signs changed, where that exists.
    if sum.subtract_packed(bytes).is_ok() {
        assert_eq!(sum, start);
    }
}

/// The same bytes in parts that grow, as a table comes and as it is read from the store.
fn by_parts(mut bytes: &[u8], cells: usize) -> Option<Vec<i64>> {
    let (mut decoder, mut found, mut next) = (Decoder::new(cells), Vec::new(), 0);
    while !bytes.is_empty() {
        let (part, rest) = bytes.split_at(next.min(bytes.len()));
        let each = |first, block: &[i64]| {
            assert_eq!(first, found.len());
            found.extend_from_slice(block);
            Ok::<(), PackError>(())
        };
        decoder.push(part, each).ok()?;
        (bytes, next) = (rest, next + 3);
    }
    decoder.finish().ok().map(|()| found)
}

/// Honest answers of two nodes, with edits from the bytes, read by a program until it rests or cannot go on.
fn program(mut bytes: &[u8]) {
    let mut program = Program::new(honest::context());
    for _ in 0..QUESTIONS {
        let Some(query) = program.query().cloned() else { break };
        let heads = program.heads().cloned();
        let cells = query.layout(program.context()).cells();
        let honest = |node| honest::answer(program.context(), &query, heads.as_deref(), node);
        let mut sum = honest(0).unwrap_or_else(|| Table::zeros(cells));
        if let Some(other) = honest(1) {
            sum.merge(&other).expect("small numbers");
        }
        let sum = edited(sum, &mut bytes);
        reported(&program, &query, &sum);
        if next(&mut bytes) == 255 && program.may_widen() {
            program.widen().expect("it may");
        } else if program.absorb(&sum).is_err() {
            return;
        }
        told(&program);
        if program.result().is_some() && program.previews().is_empty() {
            let wishes = [
                PolicyRequest::Fraction(f64::from(next(&mut bytes)) / 255.0),
                PolicyRequest::MaxDrop(f64::from(next(&mut bytes)) / 100.0),
                PolicyRequest::Thresholds(Policy::static_cut(2, 1, Rule::Whitened)),
            ];
            for policy in wishes.iter().filter_map(|wish| program.choose(wish).ok()).collect::<Vec<_>>() {
                program.preview(Part::Evaluation, vec![policy]);
            }
        }
    }
}

/// What a coordinator tells of single answers and snapshots, whatever is in them.
fn reported(program: &Program, query: &Query, table: &Table) {
    let context = program.context();
    if let Query::Moments { scales, second } = query {
        let shape = context.moments_shape(second);
        if let Ok(view) = MomentsView::new(&shape, table) {
            let _ = (view.withheld_classes(), view.excluded(), shifts((&view, scales), (&view, scales)));
            for e in 0..context.exits.len() {
                assert!(view.samples(e) >= view.paired_samples(e));
            }
        }
    }
    if let Some(curve) = node_curve(context, query, table) {
        serde_json::to_string(&curve).expect("a curve can be written");
    }
}

/// What a program found is told as JSON, and read by windows.
fn told(program: &Program) {
    if let Some(result) = program.result() {
        let json = serde_json::to_string(result).expect("a result can be written");
        let read = serde_json::from_str::<RunResult>(&json);
        assert!(read.is_ok(), "{read:?}: {json}");
    }
    if let Some(times) = program.times() {
        let json = serde_json::to_string(times).expect("times can be written");
        let read = serde_json::from_str::<Times>(&json);
        assert!(read.is_ok(), "{read:?}: {json}");
        assert!(times.mean_ms(&Policy::off(2), &[0.0, 0.0, 1.0]).is_finite());
    }
    if let Some(heads) = program.heads() {
        let bytes = heads.encode();
        assert_eq!(exeunt_exits::Heads::decode(&bytes).as_ref(), Ok(heads.as_ref()));
    }
}

/// How many edits (one byte, at most seven), then each: which cell (two bytes), how (one byte), a number (up to eight
/// bytes).
fn edited(table: Table, bytes: &mut &[u8]) -> Table {
    let edits = next(bytes) % 8;
    let mut cells = table.into_cells();
    for _ in 0..edits {
        let at = u16::from_be_bytes([next(bytes), next(bytes)]);
        let how = next(bytes);
        let mut number = [0; 8];
        number.iter_mut().take(usize::from(how % 9)).for_each(|byte| *byte = next(bytes));
        let number = i64::from_le_bytes(number);
        let count = cells.len().max(1);
        if let Some(cell) = cells.get_mut(usize::from(at) % count) {
            *cell = if how < 128 { cell.wrapping_add(number) } else { cell.wrapping_sub(number) };
        }
    }
    Table::from_cells(cells)
}

fn next(bytes: &mut &[u8]) -> u8 {
    match bytes.split_first() {
        Some((first, rest)) => {
            *bytes = rest;
            *first
        }
        None => 0,
    }
}
