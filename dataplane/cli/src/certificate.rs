//! `pyramid certificate issue`: another identity from the authority of a `pyramid dev`.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Subcommand;
use pyramid_protocol::{SpiffeId, SystemClock};
use pyramid_tls::Tls;
use pyramid_tls::authority::{Request, Usage};
use serde_json::json;

use crate::connection::DATA_DIR;
use crate::dev::certificates::{self, days};
use crate::identity::Named;
use crate::log_time;
use crate::output::Output;

/// How long a certificate lives unless said otherwise.
const DAYS: u32 = 90;
/// Ten years: as long as the authority of a `pyramid dev`.
const DAYS_MAX: i64 = 3652;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a key and a certificate for another identity of a `pyramid dev`.
    Issue(IssueArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pyramid certificate issue --identity reports --out reports
  pyramid stream grant orders --read reports
  pyramid stream read orders --tls reports

The directory has tls.key, tls.crt and ca.crt, as every part of Pyramid takes them. The key lies only
there. What the identity may do is said by the streams, with `pyramid stream grant`; a certificate
alone gives no right.")]
pub(crate) struct IssueArgs {
    /// Who it is for: a name, or `spiffe://TRUST-DOMAIN/PATH` with the trust domain of the data
    /// directory.
    #[arg(long, value_name = "IDENTITY")]
    identity: Named,

    /// The directory to make, or to renew.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// How long it is good. Unit: days.
    #[arg(long, value_name = "DAYS", default_value_t = DAYS,
        value_parser = clap::value_parser!(u32).range(1..=DAYS_MAX))]
    days: u32,

    /// For a program that serves: a name or an address under which it is reached. May be given
    /// several times.
    #[arg(long, value_name = "NAME")]
    host: Vec<String>,

    /// Data directory of the `pyramid dev`; it need not run.
    #[arg(long, env = "PYRAMID_DATA_DIR", default_value = DATA_DIR, value_name = "DIR")]
    data_dir: PathBuf,
}

/// Does what was asked.
///
/// # Errors
///
/// There is no authority, or it does not vouch for such an identity.
pub(crate) fn run(command: Command, output: &mut Output) -> anyhow::Result<()> {
    let Command::Issue(args) = command;
    let IssueArgs { identity, out, days: life_days, host, data_dir } = args;
    let authority = certificates::existing_authority(&data_dir)?;
    let identity = identity.resolve(Some(authority.trust_domain()))?;
    refuse_foreign(&out)?;
    refuse_other(&out, &identity)?;
    let (mut dns_names, mut ip_addresses) = (Vec::new(), Vec::new());
    for name in host {
        match name.parse::<IpAddr>() {
            Ok(address) => ip_addresses.push(address),
            Err(_) => dns_names.push(name),
        }
    }
    let is_server = !dns_names.is_empty() || !ip_addresses.is_empty();
    let request = Request {
        identity: identity.clone(),
        usage: if is_server { Usage::ServerAndClient } else { Usage::Client },
        dns_names,
        ip_addresses,
        life: days(life_days),
    };
    let not_after_ms = certificates::issue(&authority, &out, &request, &SystemClock)?;
    let text =
        format!("{} is now {identity}, until {}", out.display(), log_time::format(not_after_ms));
    let json = json!({
        "identity": identity.as_str(),
        "directory": out,
        "not_after_ms": not_after_ms,
    });
    output.say(&text, &json)
}

/// A directory is renewed for the identity that it has, those of the `pyramid dev` itself too.
fn refuse_other(out: &Path, identity: &SpiffeId) -> anyhow::Result<()> {
    // What cannot be opened is nobody's any more.
    if let Ok(tls) = Tls::open(out, Arc::new(SystemClock))
        && tls.identity() != identity
    {
        bail!("--out {} is {}; give a new directory for {identity}", out.display(), tls.identity());
    }
    Ok(())
}

/// Nothing is put between the files of somebody else.
fn refuse_foreign(out: &PathBuf) -> anyhow::Result<()> {
    if !out.exists() || out.join("tls.crt").exists() {
        return Ok(());
    }
    let at = || format!("--out {}", out.display());
    if fs::read_dir(out).with_context(at)?.next().is_some() {
        bail!("{} is not empty and has no tls.crt; give a new directory", at());
    }
    Ok(())
}
