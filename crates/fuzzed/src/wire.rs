//! Changes to a protocol buffer that leave it one: chance alone seldom gets the lengths right.

const DEPTH: usize = 12;

/// A field, by its number.
#[derive(Clone)]
struct Field {
    number: u64,
    value: Value,
}

#[derive(Clone)]
enum Value {
    Varint(u64),
    Wide([u8; 8]),
    Bytes(Vec<u8>),
    Message(Vec<Field>),
    Narrow([u8; 4]),
}

/// `message` with edits; each is a place (two bytes), a kind (one byte) and what the kind needs. `words` are texts worth
/// having. None when `message` is no protocol buffer.
pub(crate) fn edited(message: &[u8], mut edits: &[u8], words: &[&str]) -> Option<Vec<u8>> {
    let mut root = parse(message, DEPTH)?;
    while let Some((&[high, low, kind, operand], rest)) = edits.split_first_chunk() {
        edits = rest;
        let count = count(&root).max(1);
        let place = usize::from(u16::from_be_bytes([high, low])) % count;
        let other = nth(&mut root, &mut (usize::from(operand) * 7 % count)).map(|(_, field)| field.clone());
        let Some((fields, at)) = parent(&mut root, &mut { place }) else { continue };
        match kind % 9 {
            0 => fields[at].value = Value::Varint(u64::from(operand)),
            1 => fields[at].value = Value::Varint(u64::MAX << (operand % 64)),
            2 => fields[at].value = Value::Varint(1 << (operand % 64)),
            3 => drop(fields.remove(at)),
            4 => fields.insert(at, fields[at].clone()),
            5 => {
                if let Some(other) = other {
                    fields[at].value = other.value;
                }
            }
            6 => {
                if let Some(word) = words.get(usize::from(operand) % words.len().max(1)) {
                    fields[at].value = Value::Bytes(word.as_bytes().to_vec());
                }
            }
            7 => {
                let taken = edits.len().min(usize::from(operand));
                let (bytes, rest) = edits.split_at(taken);
                fields[at].value = Value::Bytes(bytes.to_vec());
                edits = rest;
            }
            _ => fields[at].number = u64::from(operand % 32).max(1),
        }
    }
    let mut bytes = Vec::new();
    write(&root, &mut bytes);
    Some(bytes)
}

fn parse(mut bytes: &[u8], depth: usize) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Varint(varint(&mut bytes)?),
            1 => Value::Wide(*take(&mut bytes, 8)?.first_chunk()?),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let content = take(&mut bytes, length)?;
                let nested = if depth > 0 && content.len() > 1 { parse(content, depth - 1) } else { None };
                nested.map_or_else(|| Value::Bytes(content.to_vec()), Value::Message)
            }
            5 => Value::Narrow(*take(&mut bytes, 4)?.first_chunk()?),
            _ => return None,
        };
        fields.push(Field { number: (key >> 3).max(1), value });
    }
    Some(fields)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *take(bytes, 1)?.first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn count(fields: &[Field]) -> usize {
    let inside = |field: &Field| match &field.value {
        Value::Message(fields) => count(fields),
        _ => 0,
    };
    fields.iter().map(|field| 1 + inside(field)).sum()
}

/// The fields among which the `place`-th field lies, counted from the outside in, and where.
fn parent<'a>(fields: &'a mut Vec<Field>, place: &mut usize) -> Option<(&'a mut Vec<Field>, usize)> {
    let mut within = None;
    for (at, field) in fields.iter().enumerate() {
        if *place == 0 {
            within = Some((at, true));
            break;
        }
        *place -= 1;
        if let Value::Message(inner) = &field.value {
            let inside = count(inner);
            if *place < inside {
                within = Some((at, false));
                break;
            }
            *place -= inside;
        }
    }
    let (at, here) = within?;
    if here {
        return Some((fields, at));
    }
    match &mut fields[at].value {
        Value::Message(inner) => parent(inner, place),
        _ => None,
    }
}

fn nth<'a>(fields: &'a mut Vec<Field>, place: &mut usize) -> Option<(usize, &'a mut Field)> {
    let (fields, at) = parent(fields, place)?;
    Some((at, &mut fields[at]))
}

fn write(fields: &[Field], bytes: &mut Vec<u8>) {
    for Field { number, value } in fields {
        let key = |kind: u64| number << 3 | kind;
        match value {
            Value::Varint(value) => {
                write_varint(key(0), bytes);
                write_varint(*value, bytes);
            }
            Value::Wide(content) => {
                write_varint(key(1), bytes);
                bytes.extend_from_slice(content);
            }
            Value::Bytes(content) => write_bytes(key(2), content, bytes),
            Value::Message(fields) => {
                let mut content = Vec::new();
                write(fields, &mut content);
                write_bytes(key(2), &content, bytes);
            }
            Value::Narrow(content) => {
                write_varint(key(5), bytes);
                bytes.extend_from_slice(content);
            }
        }
    }
}

fn write_bytes(key: u64, content: &[u8], bytes: &mut Vec<u8>) {
    write_varint(key, bytes);
    write_varint(content.len() as u64, bytes);
    bytes.extend_from_slice(content);
}

fn write_varint(mut value: u64, bytes: &mut Vec<u8>) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `1: 300, 2: { 1: "word" }`
    const MESSAGE: [u8; 11] = [8, 0xac, 2, 18, 6, 10, 4, b'w', b'o', b'r', b'd'];

    #[test]
    fn without_edits_a_message_stays_as_it_is() {
        assert_eq!(edited(&MESSAGE, &[], &[]).as_deref(), Some(&MESSAGE[..]));
        assert_eq!(edited(&MESSAGE[..5], &[], &[]), None);
    }

    #[test]
    fn lengths_follow_an_edit() {
        // The third field is the text inside.
        let longer = edited(&MESSAGE, &[0, 2, 6, 0], &["longer"]).unwrap();
        assert_eq!(longer, [&[8, 0xac, 2, 18, 8, 10, 6], &b"longer"[..]].concat());
        let without = edited(&MESSAGE, &[0, 2, 3, 0], &[]).unwrap();
        assert_eq!(without, [8, 0xac, 2, 18, 0]);
    }
}
