//! Packed tables and sums as they are stored: in pieces, so that neither a page of the database nor what is held in memory
//! grows with them.
//!
//! [`TABLES`] says which pieces are a node's table. Pieces that no contribution has taken up yet are [`STAGED`]: they
//! come before the contribution, as a table travels, and are gone when the store is opened again.

use exeunt_protocol::message::BlobRef;
use redb::{ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use crate::StageId;
use crate::tables::{Bytes, Failure, TableKey};

/// The number under which a table's pieces lie, and how many bytes they have. By its digest, so that a table which was counted stays when its node has newer
/// data.
pub(crate) const TABLES: TableDefinition<'_, TableKey, (u64, u64)> = TableDefinition::new("stored-tables");
/// By number, and place in the table. All but a table's last have [`PIECE`] bytes.
pub(crate) const PIECES: TableDefinition<'_, (u64, u32), Bytes> = TableDefinition::new("pieces");
/// How many bytes were staged under a number.
pub(crate) const STAGED: TableDefinition<'_, u64, u64> = TableDefinition::new("staged");

/// Bytes of a piece: with its key it fills a page of 64 KiB, the sizes of which are powers of two.
pub(crate) const PIECE: usize = (64 << 10) - 256;

/// Where bytes are: the number of their pieces, and how many they are.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) id: u64,
    pub(crate) length: u64,
}

/// Cuts bytes into pieces.
pub(crate) fn put(pieces: &mut redb::Table<'_, (u64, u32), Bytes>, bytes: &[u8]) -> Result<Stored, Failure> {
    let id = unused(pieces)?;
    append(pieces, id, 0, bytes)?;
    Ok(Stored { id, length: bytes.len() as u64 })
}

/// Stores a whole table, unless it is there.
pub(crate) fn put_table(txn: &WriteTransaction, key: TableKey<'_>, bytes: &[u8]) -> Result<(), Failure> {
    let mut tables = txn.open_table(TABLES)?;
    if tables.get(key)?.is_none() {
        let Stored { id, length } = put(&mut txn.open_table(PIECES)?, bytes)?;
        tables.insert(key, (id, length))?;
    }
    Ok(())
}

/// Where a table is.
pub(crate) fn table(
    tables: &impl ReadableTable<TableKey<'static>, (u64, u64)>,
    key: TableKey<'_>,
) -> Result<Option<Stored>, Failure> {
    let stored = tables.get(key)?.map(|stored| stored.value());
    Ok(stored.map(|(id, length)| Stored { id, length }))
}

/// Makes what was staged a table.
pub(crate) fn take_up(
    txn: &WriteTransaction,
    key: TableKey<'_>,
    StageId(id): StageId,
    table: &BlobRef,
) -> Result<(), Failure> {
    let found = txn.open_table(STAGED)?.remove(id)?.map(|bytes| bytes.value());
    let wrong = |what: String| Failure::Value { table: "staged", key: id.to_string(), what };
    match found {
        Some(found) if found == table.bytes => {}
        Some(found) => return Err(wrong(format!("{found} bytes, expected {}", table.bytes))),
        None => return Err(wrong("nothing was staged".to_owned())),
    }
    let mut tables = txn.open_table(TABLES)?;
    if tables.get(key)?.is_some() {
        return delete(txn, id);
    }
    tables.insert(key, (id, table.bytes))?;
    Ok(())
}

/// Adds bytes to what was staged, or begins.
pub(crate) fn stage(
    txn: &WriteTransaction,
    under: Option<StageId>,
    bytes: &[u8],
) -> Result<StageId, Failure> {
    let (mut staged, mut pieces) = (txn.open_table(STAGED)?, txn.open_table(PIECES)?);
    let (id, before) = match under {
        None => (unused(&pieces)?, 0),
        Some(StageId(id)) => {
            let before = staged.get(id)?.map(|bytes| bytes.value());
            let gone =
                || Failure::Value { table: "staged", key: id.to_string(), what: "it is gone".to_owned() };
            (id, before.ok_or_else(gone)?)
        }
    };
    append(&mut pieces, id, before, bytes)?;
    staged.insert(id, before + bytes.len() as u64)?;
    Ok(StageId(id))
}

/// Forgets what was staged; nothing if it was taken up.
pub(crate) fn discard(txn: &WriteTransaction, StageId(id): StageId) -> Result<(), Failure> {
    let there = txn.open_table(STAGED)?.remove(id)?.is_some();
    if there { delete(txn, id) } else { Ok(()) }
}

/// Everything that is staged.
pub(crate) fn all_staged(staged: &impl ReadableTable<u64, u64>) -> Result<Vec<StageId>, Failure> {
    staged.iter()?.map(|entry| Ok(StageId(entry?.0.value()))).collect()
}

/// Removes a table.
pub(crate) fn remove_table(txn: &WriteTransaction, key: TableKey<'_>) -> Result<(), Failure> {
    let stored = txn.open_table(TABLES)?.remove(key)?.map(|stored| stored.value().0);
    stored.map_or(Ok(()), |id| delete(txn, id))
}

/// At most `limit` bytes from `offset` on.
pub(crate) fn read(
    pieces: &impl ReadableTable<(u64, u32), Bytes>,
    Stored { id, length }: Stored,
    offset: u64,
    limit: usize,
) -> Result<Vec<u8>, Failure> {
    let end = length.min(offset.saturating_add(limit as u64));
    let mut at = offset.min(end);
    // A length that is damaged is found where its pieces end.
    let mut bytes = Vec::with_capacity(usize::try_from(end - at).unwrap_or(0).min(crate::STAGE));
    while at < end {
        let piece = (id, (at / PIECE as u64) as u32);
        let wrong =
            |what: &str| Failure::Value { table: "pieces", key: format!("{piece:?}"), what: what.to_owned() };
        let value = pieces.get(piece)?.ok_or_else(|| wrong("it is gone"))?;
        let within = (at % PIECE as u64) as usize;
        let wanted = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE - within);
        let part = value.value().get(within..within + wanted).ok_or_else(|| wrong("it is too short"))?;
        bytes.extend_from_slice(part);
        at += part.len() as u64;
    }
    Ok(bytes)
}

/// A number that no pieces have.
fn unused(pieces: &impl ReadableTable<(u64, u32), Bytes>) -> Result<u64, Failure> {
    Ok(pieces.last()?.map_or(0, |(key, _)| key.value().0 + 1))
}

/// Adds bytes to pieces that have `before` bytes. A table without bytes has one piece without any, which keeps its
/// number from being given away.
fn append(
    pieces: &mut redb::Table<'_, (u64, u32), Bytes>,
    id: u64,
    before: u64,
    bytes: &[u8],
) -> Result<(), Failure> {
    let mut number = (before / PIECE as u64) as u32;
    let begun = (before % PIECE as u64) as usize;
    let (end, rest) = bytes.split_at(if begun == 0 { 0 } else { bytes.len().min(PIECE - begun) });
    if !end.is_empty() {
        let key = (id, number);
        let last = pieces.get(key)?.map(|last| last.value().to_vec());
        let gone =
            || Failure::Value { table: "pieces", key: format!("{key:?}"), what: "it is gone".to_owned() };
        let mut last = last.ok_or_else(gone)?;
        last.extend_from_slice(end);
        pieces.insert((id, number), last.as_slice())?;
        number += 1;
    }
    if before == 0 && bytes.is_empty() {
        pieces.insert((id, 0), bytes)?;
    }
    for piece in rest.chunks(PIECE) {
        pieces.insert((id, number), piece)?;
        number += 1;
    }
    Ok(())
}

fn delete(txn: &WriteTransaction, id: u64) -> Result<(), Failure> {
    txn.open_table(PIECES)?.retain_in((id, 0)..=(id, u32::MAX), |_, _| false)?;
    Ok(())
}
