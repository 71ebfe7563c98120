//! `make demo` with the programs that the other suites use.

use anyhow::{Context, ensure};
use pyramid_e2e::process::{program, tell};
use tokio::process::Command;

#[tokio::test]
async fn the_demo_ends_with_a_table_that_equals_the_file() -> anyhow::Result<()> {
    let programs = program("pyramid")?;
    let programs = programs.parent().context("programs lie in a folder")?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/orders/demo.sh");
    let output = Command::new(script)
        .env("PROGRAMS", programs)
        .kill_on_drop(true)
        .output()
        .await
        .context("run the demo")?;
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "the demo ended with {}\n{out}\n{err}", output.status);
    let last = out.lines().last().unwrap_or_default();
    ensure!(last.starts_with("equal: 40000 orders"), "the demo ended with {last:?}");
    tell(&format!("demo: {last}"));
    Ok(())
}
