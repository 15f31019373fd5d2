//! Formats tables, all in the same way.

use crate::text::grouped;
use comfy_table::{Cell, CellAlignment, Table, presets::NOTHING};
use rmpv::Value;
use std::fmt::Display;

/// A cell: text is aligned left, numbers right.
pub(crate) enum Item {
    Text(String),
    Number(String),
}

impl Item {
    pub(crate) fn text(text: impl Into<String>) -> Item {
        Item::Text(text.into())
    }

    pub(crate) fn number(n: impl Display) -> Item {
        Item::Number(grouped(n))
    }

    /// Formats a value of a broker's answer.
    pub(crate) fn value(value: &Value) -> Item {
        match value {
            Value::Nil => Item::text(""),
            Value::Integer(n) => Item::number(n),
            Value::F32(_) | Value::F64(_) => Item::Number(value.to_string()),
            Value::String(text) => {
                Item::Text(crate::payload::visible(text.as_str().unwrap_or("?")).into_owned())
            }
            other => Item::Text(serde_json::to_string(&crate::payload::AsJson(other)).unwrap_or_default()),
        }
    }
}

/// Returns the lines of a table. The first is the header, unless there is none.
pub(crate) fn lines(header: &[impl AsRef<str>], rows: Vec<Vec<Item>>) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(NOTHING);
    let numeric = |column: usize| rows.iter().any(|row| matches!(row.get(column), Some(Item::Number(_))));
    if !header.is_empty() {
        table.set_header(header.iter().enumerate().map(|(i, title)| {
            let side = if numeric(i) { CellAlignment::Right } else { CellAlignment::Left };
            Cell::new(title.as_ref()).set_alignment(side)
        }));
    }
    for row in rows {
        table.add_row(row.into_iter().map(|item| match item {
            Item::Text(text) => Cell::new(text),
            Item::Number(text) => Cell::new(text).set_alignment(CellAlignment::Right),
        }));
    }
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_aligned_right() {
        let rows =
            vec![vec![Item::text("a"), Item::number(1)], vec![Item::text("long"), Item::number(12345)]];
        assert_eq!(lines(&["NAME", "N"], rows), ["NAME       N", "a          1", "long  12,345"]);
    }
}
