//! `cairn admin ledger`.

use cairn_client::{Admin, LedgerEntry, Subject};
use serde::Serialize;

use super::Places;
use crate::{
    args,
    cmd::Complaints,
    failure::Failure,
    output::{Align, Out, Table},
    text,
};

/// Entries asked for at once.
const PAGE: u32 = 256;

/// An entry in JSON.
#[derive(Debug, Serialize)]
pub(in crate::cmd) struct EntryJson {
    number: u64,
    found: String,
    store: u64,
    block: String,
    pg: u64,
    cause: String,
    finder: String,
    /// Empty = open.
    result: String,
    closed: Option<String>,
    trouble: String,
}

impl From<&LedgerEntry> for EntryJson {
    fn from(entry: &LedgerEntry) -> Self {
        Self {
            number: entry.number,
            found: text::rfc3339(entry.found_ns),
            store: entry.store.into(),
            block: entry.block.to_string(),
            pg: entry.pg.into(),
            cause: entry.cause.clone(),
            finder: entry.finder.clone(),
            result: entry.result.clone(),
            closed: (entry.closed_ns != 0).then(|| text::rfc3339(entry.closed_ns)),
            trouble: entry.trouble.clone(),
        }
    }
}

#[derive(Serialize)]
struct NodeJson {
    node: u64,
    open: u64,
    entries: Vec<EntryJson>,
}

struct NodeLedger {
    node: u32,
    open: u64,
    entries: Vec<LedgerEntry>,
}

/// Runs the command.
pub(super) async fn run(args: &args::Ledger, admin: &Admin, out: &mut Out) -> Result<(), Failure> {
    let places = Places::read(admin).await?;
    let nodes: Vec<u32> = match &args.node {
        None => places.nodes.keys().copied().collect(),
        Some(target) => match places.resolve(target)? {
            Subject::Node(id) => vec![id],
            Subject::Store(_) => return Err(Failure::usage(target, "ledgers are kept by nodes; name a node")),
        },
    };
    let mut complaints = Complaints::new("admin ledger");
    let mut ledgers = Vec::new();
    for node in nodes {
        let read = read(node, args, admin).await.map_err(|error| Failure::named(Subject::Node(node), &error));
        ledgers.extend(complaints.hear(read)?);
    }
    if args.json {
        let json = |ledger: &NodeLedger| NodeJson {
            node: ledger.node.into(),
            open: ledger.open,
            entries: ledger.entries.iter().map(EntryJson::from).collect(),
        };
        out.json(&ledgers.iter().map(json).collect::<Vec<_>>())?;
    } else if !ledgers.is_empty() {
        write(&ledgers, out)?;
    }
    complaints.end()
}

/// The newest entries of a node that are asked for.
async fn read(node: u32, args: &args::Ledger, admin: &Admin) -> Result<NodeLedger, cairn_client::Error> {
    let limit = usize::try_from(args.limit.get()).expect("bounded by its type");
    let mut ledger = NodeLedger { node, open: 0, entries: Vec::new() };
    let mut before = None;
    loop {
        let page = admin.ledger(node, before, PAGE).await?;
        ledger.open = page.open;
        let Some(last) = page.entries.last().map(|entry| entry.number) else { break };
        // Numbers fall, whatever a node says: otherwise this would not end.
        if before.is_some_and(|before| last >= before) {
            break;
        }
        before = Some(last);
        let wanted = page.entries.into_iter().filter(|entry| !args.open || entry.result.is_empty());
        ledger.entries.extend(wanted);
        let all_open_seen = args.open && ledger.entries.len() as u64 >= ledger.open;
        if ledger.entries.len() >= limit || last <= 1 || all_open_seen {
            break;
        }
    }
    ledger.entries.truncate(limit);
    Ok(ledger)
}

fn write(ledgers: &[NodeLedger], out: &mut Out) -> Result<(), Failure> {
    use Align::{Left, Right};
    let mut table = Table::new(&[Right, Right, Left, Right, Left, Right, Left, Left, Left]);
    table.row(["NODE", "ENTRY", "FOUND", "STORE", "BLOCK", "GROUP", "CAUSE", "BY", "RESULT"].map(str::to_owned));
    let mut any = false;
    for ledger in ledgers {
        for entry in &ledger.entries {
            any = true;
            table.row([
                ledger.node.to_string(),
                entry.number.to_string(),
                text::minute(entry.found_ns),
                entry.store.to_string(),
                entry.block.to_string(),
                entry.pg.to_string(),
                entry.cause.clone(),
                entry.finder.clone(),
                result(entry),
            ]);
        }
    }
    if any {
        table.lines().into_iter().try_for_each(|line| out.line(line))?;
    }
    let open: u64 = ledgers.iter().map(|ledger| ledger.open).sum();
    match (any, open) {
        (false, 0) => out.line("nothing was found wrong"),
        (_, open) => out.line(format_args!("{} open", text::count(open, "entry"))),
    }
}

/// How an entry ended, or why it has not.
fn result(entry: &LedgerEntry) -> String {
    match (entry.result.as_str(), entry.trouble.as_str()) {
        ("", "") => "open".to_owned(),
        ("", trouble) => format!("open: {trouble}"),
        (result, _) => format!("{result} {}", text::minute(entry.closed_ns)),
    }
}
