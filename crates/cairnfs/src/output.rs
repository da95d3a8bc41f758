//! Standard output and standard error: the only place that writes to them.

use std::{
    ffi::OsStr,
    fmt::Display,
    fs::File,
    io::{self, BufWriter, IsTerminal, Write},
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::Path,
};

use serde::Serialize;

use crate::{failure::Failure, text};

/// Bytes gathered before they are written.
const BUFFER_LEN: usize = 64 * 1024;

/// Buffered standard output. Nothing is written after the reader went away: every method then fails with
/// [`Failure::PipeClosed`].
pub struct Out {
    writer: BufWriter<File>,
    terminal: bool,
}

impl Out {
    /// # Errors
    /// Standard output is closed.
    pub fn new() -> Result<Self, Failure> {
        let stdout = io::stdout();
        // A file of our own: std's Stdout would flush at each line.
        let fd = stdout.as_fd().try_clone_to_owned().map_err(|error| Failure::stdout(&error))?;
        Ok(Self { writer: BufWriter::with_capacity(BUFFER_LEN, File::from(fd)), terminal: stdout.is_terminal() })
    }

    /// Writes bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.writer.write_all(bytes).map_err(|error| Failure::stdout(&error))
    }

    /// Writes text.
    pub fn text(&mut self, text: impl Display) -> Result<(), Failure> {
        write!(self.writer, "{text}").map_err(|error| Failure::stdout(&error))
    }

    /// Writes text and ends the line.
    pub fn line(&mut self, text: impl Display) -> Result<(), Failure> {
        writeln!(self.writer, "{text}").map_err(|error| Failure::stdout(&error))
    }

    /// Writes a name: as it is into a pipe, escaped on a terminal.
    pub fn name(&mut self, name: &OsStr) -> Result<(), Failure> {
        if self.terminal { self.text(text::bytes(name.as_bytes())) } else { self.bytes(name.as_bytes()) }
    }

    /// Writes one JSON value and ends the line.
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer_pretty(&mut self.writer, value).map_err(|error| Failure::stdout(&error.into()))?;
        self.bytes(b"\n")
    }

    /// Writes one JSON value on a line of its own.
    pub fn json_line(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.writer, value).map_err(|error| Failure::stdout(&error.into()))?;
        self.bytes(b"\n")
    }

    /// Brings everything to the reader.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.writer.flush().map_err(|error| Failure::stdout(&error))
    }
}

/// Writes the elements of one JSON array as they come, one a line.
pub struct JsonArray {
    empty: bool,
}

impl JsonArray {
    /// Opens the array.
    pub fn begin(out: &mut Out) -> Result<Self, Failure> {
        out.bytes(b"[")?;
        Ok(Self { empty: true })
    }

    /// Writes one element.
    pub fn element(&mut self, out: &mut Out, value: &impl Serialize) -> Result<(), Failure> {
        out.bytes(if self.empty { b"\n" } else { b",\n" })?;
        self.empty = false;
        serde_json::to_writer(&mut out.writer, value).map_err(|error| Failure::stdout(&error.into()))
    }

    /// Closes the array.
    pub fn end(self, out: &mut Out) -> Result<(), Failure> {
        out.bytes(if self.empty { b"]\n" } else { b"\n]\n" })
    }
}

/// A path in JSON: text, and the exact bytes beside it where they are not text.
#[derive(Debug, Serialize)]
pub struct JsonPath {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
}

impl From<&Path> for JsonPath {
    fn from(path: &Path) -> Self {
        let bytes = path.as_os_str().as_bytes();
        let path_hex = std::str::from_utf8(bytes).is_err().then(|| text::hex(bytes));
        Self { path: String::from_utf8_lossy(bytes).into_owned(), path_hex }
    }
}

/// Writes a line to standard error. There is nobody left to tell when that fails.
pub fn say(line: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// A table: columns as wide as their widest cell, numbers to the right.
pub struct Table {
    columns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

/// On which side of a column its cells stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

impl Table {
    /// A table with these columns and no rows.
    pub fn new(columns: &[Align]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; it has at most as many cells as the table has columns.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert!(N <= self.columns.len(), "a row fits its table");
        self.rows.push(cells.into());
    }

    /// The lines of the table.
    pub fn lines(&self) -> Vec<String> {
        let len = |cell: &String| cell.chars().count();
        let width = |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let gap = if column == 0 { "" } else { "  " };
                let pad = " ".repeat(widths[column] - len(cell));
                match self.columns[column] {
                    Align::Left => line.extend([gap, cell, &pad]),
                    Align::Right => line.extend([gap, &pad, cell]),
                }
            }
            line.truncate(line.trim_end().len());
            line
        };
        self.rows.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let mut table = Table::new(&[Align::Left, Align::Right, Align::Left]);
        table.row(["é".to_owned(), "1".to_owned(), "x".to_owned()]);
        table.row(["bcd".to_owned(), "100".to_owned()]);
        assert_eq!(table.lines(), ["é      1  x", "bcd  100"]);
    }

    #[test]
    fn paths_that_are_not_text_keep_their_bytes() {
        let json = |bytes| serde_json::to_string(&JsonPath::from(Path::new(OsStr::from_bytes(bytes)))).unwrap();
        assert_eq!(json(b"/a"), r#"{"path":"/a"}"#);
        assert_eq!(json(b"/\xff"), "{\"path\":\"/\u{fffd}\",\"path_hex\":\"2fff\"}");
    }
}
