//! dcsft: declarative, cached, reproducible experiments in vision-language post-training.
#![allow(dead_code)]
mod report;

fn main() {}
