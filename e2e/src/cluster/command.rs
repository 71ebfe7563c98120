//! Programs that run to their end.

use std::ffi::OsStr;
use std::process::{Output, Stdio};

use anyhow::{Context, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Runs a program; what it wrote to standard output.
///
/// # Errors
/// It is not there, or it failed; the error has what it wrote to standard error.
pub(super) async fn run<A: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    arguments: &[A],
) -> anyhow::Result<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    said(&mut command, None).await
}

/// Runs a command with this on its standard input; what it wrote to standard output.
///
/// # Errors
/// It is not there, or it failed; the error has what it wrote to standard error.
pub(super) async fn said(command: &mut Command, input: Option<&str>) -> anyhow::Result<String> {
    let output = finish(command, input).await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let line = line(command);
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{line}: {}\n{}{}", output.status, text.trim_end(), error.trim_end());
    }
    Ok(text)
}

/// Runs a command with this on its standard input, also if it fails.
///
/// # Errors
/// It is not there.
pub(super) async fn finish(command: &mut Command, input: Option<&str>) -> anyhow::Result<Output> {
    let start = format!("start {}", command.as_std().get_program().display());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let Some(input) = input else {
        return command.stdin(Stdio::null()).output().await.context(start);
    };
    let mut child = command.stdin(Stdio::piped()).spawn().context(start)?;
    let mut pipe = child.stdin.take().context("standard input is a pipe")?;
    let write = async {
        // A program that ends before it has read all tells why by itself.
        drop(pipe.write_all(input.as_bytes()).await);
        drop(pipe);
    };
    let (output, ()) = tokio::join!(child.wait_with_output(), write);
    Ok(output?)
}

fn line(command: &Command) -> String {
    let command = command.as_std();
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_program_says_is_given_back_or_told() {
        let script = "cat; echo done; exit $0";
        let said = async |code: &str| {
            said(Command::new("sh").args(["-c", script, code]), Some("word ")).await
        };
        assert_eq!(said("0").await.unwrap(), "word done\n");
        let error = said("3").await.unwrap_err().to_string();
        assert_eq!(error, format!("sh -c {script} 3: exit status: 3\nword done"));
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let error = run::<&str>("no-such-program", &[]).await.unwrap_err().to_string();
        assert_eq!(error, "start no-such-program");
    }
}
