//! From a CSV header and its rows to the rows of the API.
//!
//! A row that cannot be sent as it stands is refused here, unless it is an opt-out: an opt-out is never lost to a stray
//! comma or a byte that is no UTF-8; what cannot be read only widens it.

use csv::ByteRecord;

use crate::pb::v1;

/// The columns, as the API names them.
pub const COLUMNS: [&str; 15] = [
    "recipient",
    "channels",
    "change",
    "topics",
    "categories",
    "occurred_time",
    "method",
    "business_name",
    "channels_named",
    "message_types",
    "notice_text",
    "notice_uri",
    "notice_sha256",
    "language",
    "request_id",
];

/// The columns without which no row means anything.
const REQUIRED: [&str; 2] = ["recipient", "change"];

/// The longest text that the API takes in one field, in bytes.
const CELL_BYTES_MAX: usize = 8_192;
/// The longest list in one cell, in bytes: 64 entries of 128 bytes, with room for separators and spaces.
const LIST_BYTES_MAX: usize = 16_384;

/// Where each column stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    at: [Option<usize>; COLUMNS.len()],
    width: usize,
}

/// A row ready to be sent, and what is to be told about it.
#[derive(Debug, Default)]
pub struct Row {
    /// The row; empty if it has faults.
    pub row: v1::ImportRow,
    /// Why it cannot be sent.
    pub faults: Vec<v1::FieldViolation>,
    /// What was widened.
    pub warnings: Vec<v1::FieldViolation>,
}

impl Header {
    /// Reads the header.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read(record: &ByteRecord) -> Result<Self, Vec<String>> {
        let mut at = [None; COLUMNS.len()];
        let mut faults = Vec::new();
        for (index, cell) in record.iter().enumerate() {
            let name = String::from_utf8_lossy(cell);
            let name = name.trim();
            match COLUMNS.iter().position(|column| *column == name) {
                None => faults.push(match guess(name) {
                    Some(meant) => format!("unknown column `{name}`; is it `{meant}`?"),
                    None => format!("unknown column `{name}`; the columns are {}", COLUMNS.join(", ")),
                }),
                Some(column) if at[column].is_some() => faults.push(format!("column `{name}` stands twice")),
                Some(column) => at[column] = Some(index),
            }
        }
        for (column, place) in COLUMNS.iter().zip(at) {
            if place.is_none() && REQUIRED.contains(column) {
                faults.push(format!("column `{column}` is missing"));
            }
        }
        if faults.is_empty() { Ok(Self { at, width: record.len() }) } else { Err(faults) }
    }

    /// Reads a row.
    pub fn row(&self, record: &ByteRecord) -> Row {
        let mut out = Row::default();
        let cells = Cells { header: self, record };
        let is_opt_out = cells.is_opt_out();
        if record.len() != self.width {
            let told = format!("has {} cells where the header has {}", record.len(), self.width);
            if !is_opt_out {
                out.faults.push(violation("row", told));
                return out;
            }
            // Which cell is which is not known beyond these two; without the others it is an opt-out of everything.
            out.warnings.push(violation("row", format!("{told}; taken for everything on all channels")));
            out.row.recipient = cells.lossy(0);
            out.row.change = "opt_out".into();
            return out;
        }
        let mut reading = Reading { cells, is_opt_out, out };
        let row = v1::ImportRow {
            recipient: reading.text(0),
            channels: reading.list(1),
            change: reading.text(2),
            topics: reading.list(3),
            categories: reading.list(4),
            occurred_time: reading.text(5),
            method: reading.text(6),
            business_name: reading.text(7),
            channels_named: reading.list(8),
            message_types: reading.list(9),
            notice_text: reading.text(10),
            notice_uri: reading.text(11),
            notice_sha256: reading.text(12),
            language: reading.text(13),
            request_id: reading.text(14),
        };
        let mut out = reading.out;
        if out.faults.is_empty() {
            out.row = row;
        }
        out
    }
}

/// What somebody may have meant by another name of a column.
fn guess(name: &str) -> Option<&'static str> {
    let plain: String = name.to_lowercase().replace([' ', '-'], "_");
    Some(match plain.trim_end_matches('s') {
        "phone" | "phone_number" | "msisdn" | "number" | "email" | "to" | "addres" => "recipient",
        "channel" => "channels",
        "status" | "action" | "consent" | "opt_in" | "opt_out" => "change",
        "topic" => "topics",
        "category" => "categories",
        "date" | "time" | "timestamp" | "occurred_at" | "created_at" => "occurred_time",
        _ => return COLUMNS.iter().copied().find(|column| *column == plain),
    })
}

fn violation(field: &str, description: impl Into<String>) -> v1::FieldViolation {
    v1::FieldViolation { field: field.into(), description: description.into() }
}

struct Cells<'a> {
    header: &'a Header,
    record: &'a ByteRecord,
}

impl Cells<'_> {
    fn bytes(&self, column: usize) -> &[u8] {
        self.header.at[column].and_then(|at| self.record.get(at)).unwrap_or_default()
    }

    fn lossy(&self, column: usize) -> String {
        let bytes = self.bytes(column);
        String::from_utf8_lossy(&bytes[..bytes.len().min(CELL_BYTES_MAX)]).trim().to_owned()
    }

    fn is_opt_out(&self) -> bool {
        self.lossy(2).to_lowercase().replace([' ', '-'], "_") == "opt_out"
    }
}

struct Reading<'a> {
    cells: Cells<'a>,
    is_opt_out: bool,
    out: Row,
}

impl Reading<'_> {
    /// The cell, or nothing where it cannot be sent: then the row is faulty, or an opt-out that grows wider.
    fn cell(&mut self, column: usize, bytes_max: usize) -> &str {
        let bytes = self.cells.bytes(column);
        let fault = match std::str::from_utf8(bytes) {
            Ok(text) if text.len() <= bytes_max => return text.trim(),
            Ok(_) => format!("has over {bytes_max} bytes"),
            Err(_) => "is not UTF-8".to_owned(),
        };
        let name = COLUMNS[column];
        if self.is_opt_out && !REQUIRED.contains(&name) {
            self.out.warnings.push(violation(name, format!("{fault}; left out")));
        } else {
            self.out.faults.push(violation(name, fault));
        }
        ""
    }

    fn text(&mut self, column: usize) -> String {
        self.cell(column, CELL_BYTES_MAX).to_owned()
    }

    fn list(&mut self, column: usize) -> Vec<String> {
        let cell = self.cell(column, LIST_BYTES_MAX);
        if cell.is_empty() {
            return Vec::new();
        }
        cell.split(';').map(str::trim).filter(|entry| !entry.is_empty()).map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(names: &[&str]) -> Result<Header, Vec<String>> {
        Header::read(&ByteRecord::from(names.to_vec()))
    }

    fn full() -> Header {
        header(&COLUMNS).expect("is the header")
    }

    fn read(header: &Header, cells: &[&[u8]]) -> Row {
        header.row(&ByteRecord::from(cells.to_vec()))
    }

    #[test]
    fn a_header_needs_two_columns_in_any_order_and_no_unknown_ones() {
        assert!(header(&["change", " recipient "]).is_ok());
        let faults = header(&["recipient", "Phone", "recipient", "colour"]).expect_err("is wrong");
        assert_eq!(faults.len(), 4, "{faults:?}");
        assert!(faults[0].contains("is it `recipient`?"), "{faults:?}");
        assert!(faults[1].contains("twice") && faults[3].contains("`change` is missing"), "{faults:?}");
    }

    #[test]
    fn a_missing_optional_column_is_empty_and_lists_split() {
        let header = header(&["change", "recipient", "channels"]).expect("is the header");
        let read = read(&header, &[b"opt_in", b" +12025550142 ", b"SMS; WHATSAPP;"]);
        assert!(read.faults.is_empty() && read.warnings.is_empty());
        assert_eq!(read.row.recipient, "+12025550142");
        assert_eq!(read.row.channels, ["SMS", "WHATSAPP"]);
        assert!(read.row.topics.is_empty() && read.row.notice_text.is_empty());
    }

    #[test]
    fn every_column_reaches_its_field() {
        let cells: Vec<&[u8]> = COLUMNS.iter().map(|name| name.as_bytes()).collect();
        let v1::ImportRow {
            recipient,
            channels,
            change,
            topics,
            categories,
            occurred_time,
            method,
            business_name,
            channels_named,
            message_types,
            notice_text,
            notice_uri,
            notice_sha256,
            language,
            request_id,
        } = read(&full(), &cells).row;
        let lists = [channels, topics, categories, channels_named, message_types].concat();
        assert_eq!(lists, ["channels", "topics", "categories", "channels_named", "message_types"]);
        let texts = [
            recipient,
            change,
            occurred_time,
            method,
            business_name,
            notice_text,
            notice_uri,
            notice_sha256,
            language,
            request_id,
        ];
        let others: Vec<&str> =
            COLUMNS.iter().copied().filter(|name| !lists.iter().any(|list| list == name)).collect();
        assert_eq!(texts.to_vec(), others);
    }

    #[test]
    fn a_ragged_opt_in_is_refused_and_a_ragged_opt_out_is_widened() {
        let header = header(&["recipient", "change", "channels"]).expect("is the header");
        let opt_in = read(&header, &[b"+12025550142", b"opt_in", b"SMS", b"stray"]);
        assert_eq!(opt_in.faults[0].description, "has 4 cells where the header has 3");
        assert_eq!(opt_in.row, v1::ImportRow::default());
        for cells in
            [&[&b"+12025550142"[..], b"Opt-Out", b"SMS", b"stray"][..], &[b"+12025550142", b"opt_out"]]
        {
            let opt_out = read(&header, cells);
            assert!(opt_out.faults.is_empty() && opt_out.warnings.len() == 1);
            assert_eq!(opt_out.row.recipient, "+12025550142");
            assert_eq!(opt_out.row.change, "opt_out");
            assert!(opt_out.row.channels.is_empty(), "all channels");
        }
    }

    #[test]
    fn bytes_that_are_no_text_and_long_cells_refuse_opt_ins_and_widen_opt_outs() {
        let header = header(&["recipient", "change", "topics", "notice_text"]).expect("is the header");
        let long = "x".repeat(CELL_BYTES_MAX + 1);
        let fits = "x".repeat(CELL_BYTES_MAX);
        let opt_in = read(&header, &[b"+12025550142", b"opt_in", b"caf\xe9", long.as_bytes()]);
        let fields: Vec<_> = opt_in.faults.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(fields, ["topics", "notice_text"]);
        assert!(read(&header, &[b"+12025550142", b"opt_in", b"", fits.as_bytes()]).faults.is_empty());
        let opt_out = read(&header, &[b"+12025550142", b"opt_out", b"caf\xe9", long.as_bytes()]);
        assert!(opt_out.faults.is_empty() && opt_out.row.topics.is_empty() && opt_out.warnings.len() == 2);
        let unreadable = read(&header, &[b"+1202\xff", b"opt_out", b"", b""]);
        assert_eq!(unreadable.faults[0].field, "recipient");
    }
}
