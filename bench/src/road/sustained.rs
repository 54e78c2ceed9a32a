//! Fires a second: durable, audited, through a real plugin process.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use axwatch_model::Incoming;
use axwatch_proto::protocol::ExecuteJobRequest;
use futures::future::try_join_all;

use super::Scale;
use crate::bare::{FIRES_PER_COMMIT, Plain, Row};
use crate::claims::{Actors, Maker};
use crate::figure::{Figure, Limit, Measured, Setting, Yardstick};
use crate::rig::{Client, IN_FLIGHT, Rig, fill, request_of};
use crate::spread::median;

const YARDSTICK: &str = "the rows of the plain layout, bare";
const UNARY: &str = "bare unary gRPC, 256 in flight";

/// Fires or calls a second in one round.
struct Rates {
    ours: f64,
    yardstick: f64,
    unary: f64,
}

/// In each round: bare calls, fires, bare rows. Nothing of one runs on into the next: the engine is
/// stopped before the bare rows, and has nothing left to do when the bare calls begin. Our store begins with so
/// many claims that nobody watches for; the file of the bare rows is empty in any case.
pub(super) async fn measure(
    folder: &Path,
    setting: &Setting,
    scale: &Scale,
    standing: usize,
) -> Result<Vec<Figure>> {
    let store = folder.join("ours.db");
    let mut plain = Plain::create(&folder.join("plain.db"))?;
    let mut maker = Maker::new(2, Actors::OwnId);
    fill(&store, |count| maker.claims(count), standing).await?;
    let mut rates = Vec::new();
    for _ in 0..scale.rounds {
        let rig = Rig::start(&store).await?;
        let unary = calls(&rig.client, &maker.claim(), scale.fires).await?;
        let before = maker.claims(scale.warm_up_fires);
        let claims = maker.claims(scale.fires);
        let rows = Rows::of(&before, &claims);
        rig.fire(before).await?;
        let ours = scale.fires as f64 / rig.fire(claims).await?.as_secs_f64();
        rig.stop().await?;
        let yardstick = fires_bare(&mut plain, &rows)?;
        rates.push(Rates { ours, yardstick, unary });
    }
    let figure = |name, against, bare: fn(&Rates) -> f64, limit| {
        let list = |number: &dyn Fn(&Rates) -> f64| rates.iter().map(number).collect::<Vec<_>>();
        let ours = list(&|rates| rates.ours);
        let measured = Measured { name, unit: "fires/s", value: median(&ours), runs: rates.len() };
        let yardstick = Yardstick { against, value: median(&list(&bare)) };
        let ratio = median(&list(&|rates| rates.ours / bare(rates)));
        Figure::with_ratio(setting, measured, yardstick, ratio, limit)
            .with("aim", if bare(&rates[0]) == rates[0].unary { 0.40 } else { 1.0 })
            .with("rounds", ours.iter().map(|rate| rate.round()).collect::<Vec<_>>())
            .with("yardstick_rounds", list(&|rates| bare(rates).round()))
            .with("fires_a_round", scale.fires)
            .with("claims_before", standing)
            .with("max_in_flight", IN_FLIGHT)
    };
    let (yardstick, unary) = match standing {
        0 => ("sustained_vs_yardstick", "sustained_vs_unary"),
        _ => ("sustained_large_vs_yardstick", "sustained_large_vs_unary"),
    };
    Ok(vec![
        figure(yardstick, YARDSTICK, |r| r.yardstick, Limit::AtLeast(0.60)),
        figure(unary, UNARY, |r| r.unary, Limit::AtLeast(0.25)),
    ])
}

/// Claims as fast as they are taken: most fires wait in the table, and come back from there.
pub(super) async fn flood(folder: &Path, setting: &Setting, scale: &Scale) -> Result<Vec<Figure>> {
    let mut maker = Maker::new(3, Actors::OwnId);
    let rig = Rig::start(&folder.join("ours.db")).await?;
    let before = maker.claims(scale.warm_up_fires);
    let claims = maker.claims(2 * scale.fires);
    let rows = Rows::of(&before, &claims[..scale.fires]);
    rig.fire(before).await?;
    let count = claims.len();
    let value = count as f64 / rig.flood(claims).await?.as_secs_f64();
    rig.stop().await?;
    let measured = Measured { name: "flood_vs_yardstick", unit: "fires/s", value, runs: 1 };
    let bare = fires_bare(&mut Plain::create(&folder.join("plain.db"))?, &rows)?;
    let yardstick = Yardstick { against: YARDSTICK, value: bare };
    Ok(vec![Figure::new(setting, measured, yardstick, Limit::None).with("fires", count)])
}

/// What the yardstick writes: the same that ours does in a round, before the clock runs and after.
struct Rows {
    before: Vec<Row>,
    measured: Vec<Row>,
}

impl Rows {
    fn of(before: &[Incoming], measured: &[Incoming]) -> Rows {
        let rows = |claims: &[Incoming]| claims.iter().map(Row::of).collect();
        Rows { before: rows(before), measured: rows(measured) }
    }
}

/// Into a file that has had the same fires as ours.
fn fires_bare(plain: &mut Plain, rows: &Rows) -> Result<f64> {
    for rows in rows.before.chunks(FIRES_PER_COMMIT) {
        plain.fires(rows)?;
    }
    let began = Instant::now();
    for rows in rows.measured.chunks(FIRES_PER_COMMIT) {
        plain.fires(rows)?;
    }
    Ok(rows.measured.len() as f64 / began.elapsed().as_secs_f64())
}

async fn calls(client: &Client, claim: &Incoming, count: usize) -> Result<f64> {
    let request = request_of(claim);
    let each = count / IN_FLIGHT as usize + 1;
    let began = Instant::now();
    let callers = (0..IN_FLIGHT).map(|_| {
        let (client, request) = (client.clone(), request.clone());
        tokio::spawn(call_again_and_again(client, request, each))
    });
    for outcome in try_join_all(callers).await? {
        outcome?;
    }
    Ok((each * IN_FLIGHT as usize) as f64 / began.elapsed().as_secs_f64())
}

async fn call_again_and_again(
    mut client: Client,
    request: ExecuteJobRequest,
    count: usize,
) -> Result<()> {
    for _ in 0..count {
        client.execute_job(request.clone()).await?;
    }
    Ok(())
}
