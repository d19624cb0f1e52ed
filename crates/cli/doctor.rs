//! `brevity doctor`: what this machine offers, and what this program knows.

use brevity::formats::{FORMATS, GGUF_ABOUT, GGUF_CONSUMERS};
use brevity::kernels::cpu;
use brevity::model::architectures;
use serde_json::{Value, json};

use crate::args::Doctor;
use crate::{print, table, units};

pub fn run(args: &Doctor) -> anyhow::Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = memory();
    if args.json {
        let format = |format: &&dyn brevity::formats::Format| -> Value {
            json!({ "name": format.name(), "about": format.about(), "opened_by": format.consumers() })
        };
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "processor": cpu::describe(),
            "threads": threads,
            "memory_bytes": memory.map(|(total, _)| total),
            "memory_available_bytes": memory.map(|(_, available)| available),
            "hub_cache": hub_cache(),
            "architectures": architectures().iter().map(|(name, types)| json!({ "name": name, "types": types })).collect::<Vec<_>>(),
            "formats": FORMATS.iter().map(format).chain([
                json!({ "name": "gguf", "about": GGUF_ABOUT, "opened_by": GGUF_CONSUMERS }),
            ]).collect::<Vec<_>>(),
        });
        return print::line(&serde_json::to_string_pretty(&report)?);
    }
    print::line(&format!("brevity {}", env!("CARGO_PKG_VERSION")))?;
    print::line(&format!("processor  {}", cpu::describe()))?;
    print::line(&format!("threads    {threads}"))?;
    if let Some((total, available)) = memory {
        print::line(&format!("memory     {}, {} available", units::bytes(total), units::bytes(available)))?;
    }
    print::line(&format!("hub cache  {}\n", hub_cache()))?;
    let rows = FORMATS.iter().map(|f| vec![f.name().to_owned(), f.about().to_owned(), f.consumers().to_owned()]);
    let rows = rows.chain([["gguf", GGUF_ABOUT, GGUF_CONSUMERS].map(str::to_owned).to_vec()]);
    print::line(&table::table(&["format", "what it is", "opened by"], &[], rows))?;
    let rows = architectures().into_iter().map(|(name, types)| vec![name.to_owned(), types.join(", ")]);
    print::line(&format!("\n{}", table::table(&["architecture", "model types"], &[], rows)))
}

/// Bytes of memory of the machine: all, and what is available.
fn memory() -> Option<(u64, u64)> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let entry = |name: &str| -> Option<u64> {
        let line = info.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
    };
    Some((entry("MemTotal:")?, entry("MemAvailable:")?))
}

/// Where models from the hub are kept.
fn hub_cache() -> String {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    set("HF_HUB_CACHE")
        .or_else(|| set("HF_HOME").map(|home| format!("{home}/hub")))
        .unwrap_or_else(|| "~/.cache/huggingface/hub".to_owned())
}
