//! How long a typical query takes to parse: each of them, and their mean, which may be 260 ns.

use std::hint::black_box;
use std::time::Instant;

use axwatch_query::parse;
use criterion::{Criterion, criterion_group, criterion_main};

#[path = "../../src/typical.rs"]
mod typical;
use typical::{LIMIT_NS, TYPICAL};

fn typical_queries(criterion: &mut Criterion) {
    for (name, query) in TYPICAL {
        criterion.bench_function(name, |bencher| bencher.iter(|| parse(black_box(query))));
    }
    let mean = format!("ax parse: mean of {} (at most {LIMIT_NS} ns)", TYPICAL.len());
    criterion.bench_function(&mean, |bencher| {
        bencher.iter_custom(|rounds| {
            let start = Instant::now();
            for _ in 0..rounds {
                for (_, query) in TYPICAL {
                    let _ = black_box(parse(black_box(query)));
                }
            }
            start.elapsed() / TYPICAL.len() as u32
        });
    });
}

criterion_group!(benches, typical_queries);
criterion_main!(benches);
