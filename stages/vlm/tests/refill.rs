//! Prompts that wait take the places of those whose answers have ended; what is written does not depend on it.

use std::collections::VecDeque;

use burn::tensor::{Device, Tensor, TensorData};
use dcsft_tensor::rng::StreamKey;
use dcsft_vlm::error::VlmError;
use dcsft_vlm::generate::{Asked, Decoder, Places, Step, TakenUp, Vocabulary, write};
use dcsft_vlm::model::{Completion, Sampling};

const VOCAB: usize = 40;
const END: u32 = 0;
const GENERATIONS: usize = 2;

/// Logits that depend on the prompt, the answer and the place alone; answers to some prompts are long.
fn logits(prompt: usize, sequence: usize, position: usize) -> Vec<f32> {
    let key = StreamKey::new("refill test", prompt as u64).number(position as u64);
    let mut stream = key.number(sequence as u64).stream();
    let mut logits: Vec<f32> = (0..VOCAB).map(|_| stream.normal() as f32).collect();
    let length = [2, 3, 12, 1][prompt % 4] + sequence % GENERATIONS;
    logits[END as usize] = if position >= length { 50.0 } else { -50.0 };
    logits
}

/// Prompts of different sizes, of which only so much has room.
struct Prompts {
    waiting: VecDeque<usize>,
    sizes: Vec<usize>,
    room: usize,
    /// Rows of each step, and the prompts that were worked on together at most.
    rows: Vec<usize>,
    together: usize,
}

impl Prompts {
    fn new(count: usize, room: usize) -> Self {
        let sizes = (0..count).map(|prompt| 1 + prompt % 3).collect();
        Self {
            waiting: (0..count).collect(),
            sizes,
            room,
            rows: Vec::new(),
            together: 0,
        }
    }
}

fn tensor(rows: Vec<Vec<f32>>) -> Tensor<2> {
    let count = rows.len();
    let data = TensorData::new(rows.concat(), [count, VOCAB]);
    Tensor::from_data(data, &Device::flex())
}

impl Decoder for Prompts {
    fn take_up(&mut self, under_way: &[usize], most: usize) -> Result<Option<TakenUp>, VlmError> {
        let mut size: usize = under_way.iter().map(|&prompt| self.sizes[prompt]).sum();
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(&next) = self.waiting.front()
        {
            size += self.sizes[next];
            let first = under_way.is_empty() && taken.is_empty();
            if size > self.room && !first {
                break;
            }
            taken.extend(self.waiting.pop_front());
        }
        self.together = self.together.max(under_way.len() + taken.len());
        let asked = |&prompt: &usize| Asked {
            id: format!("sample {prompt}").into(),
            tokens: vec![1, 2].into(),
            position: 0,
            room: 100,
        };
        let first = taken.iter().map(|&prompt| logits(prompt, 0, 0)).collect();
        Ok((!taken.is_empty()).then(|| TakenUp {
            asked: taken.iter().map(asked).collect(),
            logits: tensor(first),
        }))
    }

    fn step(&mut self, steps: &[Step]) -> Tensor<2> {
        self.rows.push(steps.len());
        let prompts: Vec<usize> = steps.iter().map(|step| step.owner.prefix).collect();
        let apart = prompts.chunk_by(|a, b| a == b).count();
        let mut distinct = prompts;
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(apart, distinct.len(), "rows of a prompt follow each other");
        let next = |step: &Step| logits(step.owner.prefix, step.owner.sequence, step.position + 1);
        tensor(steps.iter().map(next).collect())
    }
}

fn answered(count: usize, room: usize, places: [usize; 2]) -> (Vec<Vec<Completion>>, Prompts) {
    let mut prompts = Prompts::new(count, room);
    let vocabulary = Vocabulary {
        size: VOCAB,
        stops: &[END],
    };
    let sampling = Sampling {
        max_new_tokens: 20,
        seed: 5,
        ..Sampling::default()
    };
    let places = Places {
        prompts: places[0],
        refill: places[1],
    };
    let generations = 0..GENERATIONS as u32;
    let answers = write(&mut prompts, &vocabulary, places, generations, &sampling);
    (answers.expect("answers"), prompts)
}

#[test]
fn answers_do_not_depend_on_the_places() {
    const COUNT: usize = 23;
    let (alone, _) = answered(COUNT, 100, [1, 1]);
    assert_eq!(alone.len(), COUNT);
    assert!(alone.iter().flatten().all(|answer| answer.finished));
    for places in [[4, 1], [4, 2], [4, 4], [7, 3], [100, 100], [3, 9], [0, 0]] {
        for room in [0, 5, 100] {
            let (answers, prompts) = answered(COUNT, room, places);
            assert_eq!(answers, alone, "{places:?}, room {room}");
            let most = places[0].max(1);
            assert!(prompts.together <= most, "{places:?}: {}", prompts.together);
        }
    }
}

#[test]
fn places_of_ended_answers_are_filled() {
    const COUNT: usize = 24;
    let (_, by_groups) = answered(COUNT, 100, [4, 4]);
    let (_, refilled) = answered(COUNT, 100, [4, 1]);
    let rows = |prompts: &Prompts| prompts.rows.iter().sum::<usize>();
    assert_eq!(rows(&by_groups), rows(&refilled));
    // One of four prompts has answers of 12 and 13 tokens, the others of at most 4: each group takes the steps of its longest,
    // and in turns the short ones come and go beside the long ones.
    let (groups, turns) = (by_groups.rows.len(), refilled.rows.len());
    assert!(2 * turns <= groups, "{turns} of {groups}");
    assert!(refilled.rows.iter().all(|rows| *rows <= 4 * GENERATIONS));
}

#[test]
fn a_prompt_that_is_too_large_for_any_company_is_taken_up_alone() {
    let (answers, prompts) = answered(5, 1, [4, 1]);
    assert_eq!(answers.len(), 5);
    assert_eq!(prompts.together, 1);
}

#[test]
fn no_prompts_are_no_answers() {
    assert!(answered(0, 100, [4, 1]).0.is_empty());
}
