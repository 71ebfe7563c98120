//! `docs/quickstart-kubernetes.md`, word for word.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use pyramid_e2e::cluster::Cluster;
use pyramid_e2e::process::{Folder, tell};

use crate::scenarios::shop::Shop;

const PAGE: &str = include_str!("../../../docs/quickstart-kubernetes.md");

/// From `helm install` to the first order in the application's table.
const FIRST_PUSH_WITHIN: Duration = Duration::from_secs(60);
/// Ten orders a second come meanwhile.
const ORDERS_WITHIN: Duration = Duration::from_secs(60);
/// What the Job appends.
const OF_THE_JOB: u64 = 2;
/// Those of the Job, and some of the producer.
const ORDERS_MIN: u64 = 50;

/// One block of commands, and the heading above it.
#[derive(Debug, PartialEq, Eq)]
struct Step<'a> {
    heading: &'a str,
    lines: String,
}

/// The blocks of commands on a page, in their order.
fn steps(page: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    let mut heading = "";
    let mut block: Option<String> = None;
    for line in page.lines() {
        match (&mut block, line) {
            (None, "```sh") => block = Some(String::new()),
            (None, _) => heading = line.strip_prefix("## ").unwrap_or(heading),
            (Some(_), "```") => {
                steps.extend(block.take().map(|lines| Step { heading, lines }));
            }
            (Some(lines), _) => {
                lines.push_str(line);
                lines.push('\n');
            }
        }
    }
    steps
}

#[test]
fn blocks_of_commands_are_found_under_their_headings() {
    let page = "## A\n\n```sh\none\ntwo\n```\ntext\n## B\n```text\nx\n```\n```sh\nthree\n```\n";
    let step = |heading, lines: &str| Step { heading, lines: lines.to_owned() };
    assert_eq!(steps(page), [step("A", "one\ntwo\n"), step("B", "three\n")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_of_the_page_does_what_the_page_says() {
    let folder = Folder::new().unwrap();
    let cluster = Cluster::start(&folder.join("cluster")).await.unwrap();
    follow(&cluster).await.unwrap();
}

async fn follow(cluster: &Cluster) -> anyhow::Result<()> {
    let shop = Shop { cluster, namespace: "shop" };
    let mut installed = None;
    let mut complete = None;
    for Step { heading, lines } in steps(PAGE) {
        if heading == "Install" {
            installed = Some(Instant::now());
        }
        if heading == "Look" {
            let begin = installed.context("the page installs before it looks")?;
            arrive(&shop, begin).await?;
        }
        if heading == "Remove" {
            // Each order that the producer was answered for, once, in the order of its numbers.
            complete = Some(shop.ends_complete_beside(OF_THE_JOB).await?);
        }
        let said = cluster.shell(&lines).await.with_context(|| format!("under {heading:?}"))?;
        tell(&format!("## {heading}\n{said}"));
    }
    let orders = complete.context("the page removes at the end")?;
    ensure!(orders >= ORDERS_MIN, "only {orders} orders came");
    Ok(())
}

/// Waits for the orders of Job and producer.
async fn arrive(shop: &Shop<'_>, begin: Instant) -> anyhow::Result<()> {
    let come = async |count| Ok(shop.orders().await? >= count);
    let cluster = shop.cluster;
    cluster.wait_for("the first order", FIRST_PUSH_WITHIN, async || come(1).await).await?;
    let took = begin.elapsed();
    tell(&format!("first push {took:.1?} after helm install"));
    ensure!(took <= FIRST_PUSH_WITHIN, "the first push came {took:?} after helm install");
    let more = "orders of Job and producer";
    cluster.wait_for(more, ORDERS_WITHIN, async || come(ORDERS_MIN).await).await
}
