//! Records of earlier versions are read.

use dcsft_cache::{Digest, Store};
use dcsft_engine::record::Execution;
use dcsft_engine::stage::{Cost, Summary, scalars};
use serde_json::json;

/// As versions wrote them that did not measure processor time, nor knew machines, programs or what was left out.
const FIRST: &str = r#"{"format":1,"key":"d893d974341a535a24a7da6cfbb5bf7fd576eb9289f554c29a963144dd783ad1","label":"eval","explain":{"format":1,"kind":"eval"},"outputs":{},"summary":{"results":[{"set":"val","split":"id","metric":"accuracy","value":0.5,"n":4,"ci":[0.1,0.9]}]},"execution":{"seconds":2.5,"saved_seconds":1.5,"threads":1},"created_unix":1700000000}"#;

/// As versions wrote them whose engine made summaries and executions of loose JSON.
const LOOSE: &str = r#"{"format":1,"key":"d893d974341a535a24a7da6cfbb5bf7fd576eb9289f554c29a963144dd783ad1","label":"eval","explain":{"format":1,"kind":"eval","version":4,"params":{"reward":"exact","repetition_penalty":1.0,"max_new_tokens":4,"prompt":null,"on_error":"fail"},"files":{},"inputs":{"data":[{"digest":"1ca01cf880681d73483907031c116fb15d73dd1eabff33e4df4d2725b2b7b406","label":null}],"model":[{"digest":"1d633f17c6f423de5fed08d10c55ac56a2d199a0b924263a47923d42c3620c63","label":null}]},"numerics":{"backend":"flex","dtype":"f32"}},"outputs":{},"summary":{"results":[{"set":"val","split":"id","metric":"accuracy","value":0.0,"n":4,"ci":[0.0,0.4898908364545973]}],"left_out":{"count":1,"of":4,"unit":"sample","reasons":{"missing_image":1}},"warnings":["one word"]},"execution":{"seconds":0.052900318,"cpu_seconds":0.018682,"saved_seconds":0.0,"saved_cpu_seconds":0.0,"threads":2,"device":"cpu","attempts":1,"peak_rss_bytes":32043008,"started_unix":1795658055,"other_cores":null,"shared":null,"machine":{"host":"node3","processor":"Intel(R) Xeon(R) Processor","instructions":"x86_64 avx512","cores":2},"program":{"version":"0.1.0","commit":"592fa3da62a4554d162694320148fce7aa4dc839","dirty":true}},"created_unix":1795658055}"#;

fn stored(body: &str) -> dcsft_cache::Record {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let key = "d893d974341a535a24a7da6cfbb5bf7fd576eb9289f554c29a963144dd783ad1";
    let shard = folder.path().join("v1/records/d8");
    std::fs::create_dir_all(&shard).unwrap();
    let digest = Digest::of_bytes(body.as_bytes());
    let text = format!("{{\"blake3\":\"{digest}\",\"record\":{body}}}\n");
    std::fs::write(shard.join(format!("{key}.json")), text).unwrap();
    store.lookup(&key.parse().unwrap()).unwrap().unwrap()
}

#[test]
fn a_record_of_the_first_versions_is_read() {
    let record = stored(FIRST);
    let execution = Execution::of(&record);
    assert_eq!((execution.seconds, execution.threads), (2.5, Some(1)));
    let cost = Cost {
        seconds: 4.0,
        cpu_seconds: None,
    };
    assert_eq!(execution.cost(), cost);
    let (summary, unreadable) = Summary::read(&record.summary);
    assert_eq!(summary.results.unwrap()[0].value, 0.5);
    assert!(summary.left_out.is_none() && unreadable.is_empty());
}

#[test]
fn a_record_of_loose_json_is_read_whole() {
    let record = stored(LOOSE);
    let execution = Execution::of(&record);
    assert_eq!(execution.cost().cpu_seconds, Some(0.018682));
    assert_eq!(execution.machine.unwrap().cores, 2);
    let (summary, unreadable) = Summary::read(&record.summary);
    assert!(unreadable.is_empty());
    assert_eq!(
        summary.notices(),
        ["1 of 4 samples left out: missing_image 1", "one word"]
    );
    assert_eq!(summary.to_value(), record.summary);
    let scalars = scalars(&record.summary);
    assert_eq!(scalars["val/accuracy"], json!(0.0));
    assert_eq!(scalars["left_out.count"], json!(1));
    let preimage = record.explain.parse::<dcsft_engine::key::KeyPreimage>();
    assert_eq!(preimage.unwrap().digest().unwrap(), record.key);
}
