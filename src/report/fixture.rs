//! A small study with the reference figures of the micro world, for tests.

use dcsft_engine::results::paired::Paired;
use dcsft_engine::results::statistics::{Estimate, Gap, Spread};

use super::data::*;

fn estimate(percent: f64, half: f64) -> Option<Estimate> {
    let value = percent / 100.0;
    Some(Estimate {
        value,
        low: value - half / 100.0,
        high: value + half / 100.0,
        runs: 5,
    })
}

fn difference(arm: &str, versus: &str, id: [f64; 2], ood: [f64; 2], wins: usize) -> Difference {
    let gap = |[mean, se]: [f64; 2], wins| {
        Some(Gap {
            mean,
            se: Some(se),
            pairs: 5,
            wins,
        })
    };
    Difference {
        arm: arm.to_owned(),
        versus: versus.to_owned(),
        id: gap(id, 5 - wins),
        ood: gap(ood, wins),
    }
}

/// The study.
pub(crate) fn study() -> ReportData {
    let arms: [(&str, f64, f64, f64, Option<f64>); 9] = [
        ("cold_start", 73.6, 59.5, 50.0, None),
        ("sft/all", 86.8, 53.8, 39.9, Some(6.1)),
        ("sft/easy", 76.9, 58.4, 49.2, Some(5.9)),
        ("sft/medium", 84.1, 56.3, 43.3, Some(6.0)),
        ("sft/hard", 82.9, 40.1, 25.1, Some(6.2)),
        ("sft/easy+medium", 82.7, 57.3, 45.1, Some(6.0)),
        ("sft/random-hard", 85.1, 54.0, 41.0, Some(6.0)),
        ("sft/random-easy+medium", 86.2, 53.9, 40.1, Some(6.0)),
        ("grpo", 82.9, 56.1, 44.3, Some(20.4)),
    ];
    let rows = arms
        .iter()
        .map(|&(arm, id, rendition, adversarial, seconds)| ArmRow {
            arm: arm.to_owned(),
            step: seconds.map(|_| 300),
            seeds: Some(5),
            cells: vec![
                estimate(id, 0.8),
                estimate(rendition, 0.7),
                estimate(adversarial, 1.1),
            ],
            id: estimate(id, 0.8),
            ood: estimate((rendition + adversarial) / 2.0, 0.6),
            format: Some(0.998),
            seconds,
        })
        .collect();
    let curve = |arm: &str, ood: [f64; 4], id: [f64; 4]| Curve {
        arm: arm.to_owned(),
        points: (0..4)
            .map(|i| CurvePoint {
                step: i as u64 * 100,
                id: estimate(id[i], 0.8),
                ood: estimate(ood[i], 0.7),
            })
            .collect(),
    };
    let counts = [310, 150, 170, 190, 220, 300, 420, 700, 1980];
    let bins: Vec<String> = ["easy", "medium", "hard"].map(str::to_owned).to_vec();
    let bin_of = |correct: usize| {
        ["hard", "medium", "easy"][usize::from(correct > 0) + usize::from(correct == 8)]
    };
    let stage = |name: &str, kind: &str, cells, seconds, after: &[usize]| StageBox {
        name: name.to_owned(),
        kind: kind.to_owned(),
        cells,
        executed: cells / 2,
        cached: cells - cells / 2,
        failed: 0,
        seconds,
        after: after.to_vec(),
    };
    ReportData {
        study: "difficulty-sweep".to_owned(),
        sources: vec![(
            "difficulty_sweep.yaml".to_owned(),
            "dcsft: 1\nname: difficulty-sweep # <b>\n".to_owned(),
        )],
        overrides: vec!["vars.steps=300".to_owned()],
        facts: [
            ("version", "0.1.0"),
            ("device", "cpu"),
            ("executed", "31"),
            ("cached", "0"),
            ("time", "4 min 10 s"),
        ]
        .map(|(name, value)| Fact {
            name: name.to_owned(),
            value: value.to_owned(),
        })
        .to_vec(),
        baseline: Some("cold_start".to_owned()),
        spread: Spread::StandardError { seeds: 5 },
        table: ResultTable {
            sets: vec![
                ("val".to_owned(), false),
                ("rendition".to_owned(), true),
                ("adversarial".to_owned(), true),
            ],
            rows,
            seeds: 5,
        },
        comparisons: vec![Comparison {
            arm: "grpo".to_owned(),
            versus: "sft/all".to_owned(),
            seed: "0".to_owned(),
            sets: vec![SetComparison {
                set: "val".to_owned(),
                ood: false,
                paired: Paired::new(2000, 121, 61).expect("samples"),
                unshared: 3,
            }],
            id: None,
            ood: None,
        }],
        notes: vec!["train: 3 samples left out (broken_image 3)".to_owned()],
        differences: vec![
            difference("sft/hard", "cold_start", [0.093, 0.012], [-0.221, 0.018], 0),
            difference(
                "sft/easy+medium",
                "sft/all",
                [-0.041, 0.006],
                [0.043, 0.006],
                5,
            ),
        ],
        matched: vec![MatchedGap {
            arm: "sft/easy+medium".to_owned(),
            versus: "grpo".to_owned(),
            gap: Some(Gap {
                mean: 0.011,
                se: Some(0.004),
                pairs: 5,
                wins: 4,
            }),
            range: Some([0.74, 0.827]),
            apart: 0,
        }],
        curves: vec![
            curve(
                "sft/easy+medium",
                [54.7, 53.0, 51.8, 51.2],
                [73.6, 78.8, 81.9, 82.7],
            ),
            curve("grpo", [54.7, 53.2, 50.9, 50.2], [73.6, 79.2, 82.0, 82.9]),
        ],
        timing: Timing {
            stages: 20,
            ..Timing::default()
        },
        times: vec![
            ArmTime {
                arm: "sft/easy+medium".to_owned(),
                training: 6.0,
                scoring: 2.1,
            },
            ArmTime {
                arm: "grpo".to_owned(),
                training: 20.4,
                scoring: 0.0,
            },
        ],
        histogram: Some(PassRates {
            n: 8,
            counts: counts
                .iter()
                .enumerate()
                .map(|(correct, &samples)| CountBar {
                    correct: correct as u64,
                    samples,
                    bin: Some(bin_of(correct).to_owned()),
                })
                .collect(),
            bins: bins.clone(),
            cells: 1,
        }),
        filter: Some(ImplicitFilter {
            bins: bins.clone(),
            samples: vec![0.42, 0.43, 0.15],
            gradient: vec![0.09, 0.83, 0.08],
            reward: vec![0.06, 0.9, 0.04],
            mixed: 0.93,
            steps: (1..=300)
                .map(|step| {
                    let medium = 0.72 + 0.2 * (f64::from(step % 7) / 7.0);
                    let hard = (1.0 - medium) * 0.5;
                    FilterStep {
                        step: u64::from(step as u32),
                        shares: vec![1.0 - medium - hard, medium, hard],
                        active: 0.55 - 0.28 * f64::from(step) / 300.0,
                    }
                })
                .collect(),
        }),
        gallery: ["easy", "medium", "hard"]
            .iter()
            .zip([8, 5, 0])
            .map(|(bin, correct)| GalleryBin {
                bin: (*bin).to_owned(),
                samples: (0..4)
                    .map(|_| GallerySample {
                        image: Some(include_bytes!("fixture.png").to_vec()),
                        media_type: "image/png".to_owned(),
                        question: "object?".to_owned(),
                        answer: "star".to_owned(),
                        answers: [
                            ("star".to_owned(), correct),
                            ("moon".to_owned(), 8 - correct),
                        ]
                        .into_iter()
                        .filter(|(_, count)| *count > 0)
                        .collect(),
                        correct,
                        n: 8,
                    })
                    .collect(),
            })
            .collect(),
        stages: vec![
            stage("world", "shapes", 5, 12.0, &[]),
            stage("base", "model", 5, 0.2, &[]),
            stage("pretrained", "sft", 5, 260.0, &[0, 1]),
            stage("cold_start", "sft", 5, 5.0, &[0, 2]),
            stage("rollouts", "rollout", 5, 11.0, &[0, 3]),
            stage("difficulty", "difficulty", 5, 1.2, &[0, 4]),
            stage("sft", "sft", 45, 270.0, &[3, 5]),
            stage("grpo", "grpo", 5, 102.0, &[0, 3, 5]),
            stage("eval_start", "eval", 15, 3.0, &[0, 3]),
            stage("eval_sft", "eval", 270, 60.0, &[0, 6]),
            stage("eval_grpo", "eval", 30, 8.0, &[0, 7]),
        ],
        nodes: vec![NodeRow {
            title: "sft[seed=0,subset=easy]".to_owned(),
            kind: "sft".to_owned(),
            state: "executed".to_owned(),
            seconds: Some(6.1),
            key: Some("0123456789ab".to_owned()),
            origin: Some(
                ["cpu", "node-1", "0.1.0 (0123456789ab)", "20250131-120000-1"].map(str::to_owned),
            ),
        }],
    }
}
