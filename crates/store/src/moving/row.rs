//! Rows as both stores have them, and a sum over rows that does not depend on their order.

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use crate::prepare::first_16;

/// A cell. A text holds no zero character: PostgreSQL keeps none, so it arrives as U+FFFD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Value {
    Null,
    Int(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// In the order of the plan's columns.
pub(crate) type Row = Vec<Value>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Int,
    Text,
    Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    pub name: String,
    pub kind: Kind,
}

/// How a table is read and written here: the columns of both stores, in one order on both.
pub(crate) struct Plan<'a> {
    pub table: &'a super::tables::Table,
    pub columns: Vec<Column>,
    /// Places of the key's columns.
    pub key: Vec<usize>,
}

impl Plan<'_> {
    pub(crate) fn key_of(&self, row: &Row) -> Row {
        self.key.iter().filter_map(|place| row.get(*place).cloned()).collect()
    }
}

/// Rows and the sum of their digests: the same for the same rows, in whatever order they were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum {
    pub rows: u64,
    /// The first 16 bytes of each row's SHA-256, added up modulo 2^128.
    pub digest: u128,
}

impl Sum {
    pub(crate) fn add(&mut self, row: &Row) {
        let mut context = Context::new(&SHA256);
        for value in row {
            let (kind, bytes): (u8, &[u8]) = match value {
                Value::Null => (0, &[]),
                Value::Int(number) => (1, &number.to_be_bytes()),
                Value::Text(text) => (2, text.as_bytes()),
                Value::Bytes(bytes) => (3, bytes),
            };
            context.update(&[kind]);
            context.update(&(bytes.len() as u64).to_be_bytes());
            context.update(bytes);
        }
        self.rows += 1;
        self.digest = self.digest.wrapping_add(u128::from_be_bytes(first_16(context.finish().as_ref())));
    }
}

/// About how much memory a row takes.
pub(crate) fn bytes_of(row: &Row) -> usize {
    let of = |value: &Value| match value {
        Value::Text(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        _ => 0,
    };
    row.iter().map(|value| of(value) + size_of::<Value>()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(rows: &[Row]) -> Sum {
        let mut sum = Sum::default();
        rows.iter().for_each(|row| sum.add(row));
        sum
    }

    #[test]
    fn a_sum_knows_rows_and_not_their_order() {
        let a = || vec![Value::Int(1), Value::Text("a".into())];
        let b = || vec![Value::Int(2), Value::Text("b".into())];
        assert_eq!(sum(&[a(), b()]), sum(&[b(), a()]));
        // Cells that swap rows, kinds or borders, and a row that is there twice, are seen.
        let swapped =
            [vec![Value::Int(1), Value::Text("b".into())], vec![Value::Int(2), Value::Text("a".into())]];
        assert_ne!(sum(&[a(), b()]), sum(&swapped));
        let check = |one: Row, other: Row| assert_ne!(sum(&[one]), sum(&[other]));
        check(vec![Value::Text("a".into())], vec![Value::Bytes(b"a".to_vec())]);
        check(vec![Value::Null], vec![Value::Text(String::new())]);
        check(
            vec![Value::Text("ab".into()), Value::Text("c".into())],
            vec![Value::Text("a".into()), Value::Text("bc".into())],
        );
        assert_ne!(sum(&[a(), b(), b()]), sum(&[a(), b()]));
    }
}
