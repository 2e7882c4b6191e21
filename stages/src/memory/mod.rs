//! Estimates of memory: facts about models and data that flow down the graph, and what each stage makes of them.

mod data;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use dcsft_engine::stage::{
    ArtifactType, Fact, Forecast, Memory, OutputDecl, ParamProblem, Prospect,
};
use dcsft_models::micro::{MicroConfig, MicroFootprint};
use dcsft_models::processor::ImageRules;
use dcsft_models::{CONFIG, Config, HubFootprint, Precision, Quantize, Settings, Texts};
use dcsft_vlm::error::VlmError;
use dcsft_vlm::lora::{LoraConfig, ModuleGroup};
use dcsft_vlm::memory::{self, Batch, Footprint, Generation, Update};
use dcsft_vlm::model::NO_CHECKPOINTING;
use serde_json::Value;

use crate::model::PixelLimits;
pub(crate) use data::{DataFacts, Spread};

/// Tokenizer, template and regular expressions of a checkpoint's processor with what they bring into memory; measured: the
/// `model` stage takes 27.4 MiB on a tiny checkpoint and 20.0 MiB on a micro model.
const PROCESSOR: f64 = 8.0 * 1024.0 * 1024.0;

/// Bytes of an answer until it is written: as text of the state to resume from, and as rows of the result; measured.
const ANSWER: f64 = 400.0;
/// The same for each of its tokens, with its log-probability.
const ANSWER_TOKEN: f64 = 64.0;

/// What is known of a model before anything has run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ModelFacts {
    shape: Shape,
    /// The adapters that it carries.
    adapters: Option<LoraConfig>,
}

#[derive(Clone, Debug, PartialEq)]
enum Shape {
    Micro(MicroConfig),
    Checkpoint {
        config: Value,
        precision: Precision,
        quantize: Quantize,
        texts: Texts,
        images: ImageRules,
    },
}

impl ModelFacts {
    /// Of a micro VLM.
    pub(crate) fn micro(sizes: &MicroConfig) -> Self {
        Self {
            shape: Shape::Micro(sizes.clone()),
            adapters: None,
        }
    }

    /// Of the checkpoint in a folder of Hugging Face's layout, or of `random` weights in its shape.
    ///
    /// # Errors
    /// [`VlmError`] with the file and what is wrong with it.
    pub(crate) fn checkpoint(
        dir: &Path,
        settings: &Settings,
        random: bool,
    ) -> Result<Self, VlmError> {
        let config = Config::load(dir)?;
        let processor = config.processor(dir, settings)?;
        let mut texts = Texts::of(dir, &processor)?;
        if random {
            let model = HubFootprint::new(config.clone(), settings.precision, texts);
            texts.files = model.weights(None);
        }
        Ok(Self {
            shape: Shape::Checkpoint {
                config: config.raw,
                precision: settings.precision,
                quantize: settings.quantize,
                texts,
                images: processor.image_rules(),
            },
            adapters: None,
        })
    }

    fn of(prospect: &Prospect) -> Option<Self> {
        prospect.input("model").cloned()
    }

    /// The same under a stage's own limits of an image's area.
    fn within(mut self, limits: PixelLimits) -> Self {
        if let Shape::Checkpoint { texts, .. } = &mut self.shape {
            let [least, most] = &mut texts.pixels;
            *least = limits.min.map_or(*least, |pixels| pixels as f64);
            *most = limits.max.map_or(*most, |pixels| pixels as f64).max(*least);
        }
        self
    }

    /// What a stage's own limits of an image's area ask of the model in vain.
    fn refuses(&self, limits: PixelLimits) -> Option<ParamProblem> {
        let refused = match &self.shape {
            Shape::Micro(sizes) => sizes.check_pixels(limits.min, limits.max),
            Shape::Checkpoint { images, .. } => images.check_pixels(limits.min, limits.max),
        };
        let field = match limits.min {
            Some(_) => "min_pixels",
            None => "max_pixels",
        };
        let problem = refused.err()?;
        Some(ParamProblem::new(field, problem.to_string()))
    }

    /// Bytes of its text and image side.
    fn processor(&self) -> f64 {
        match self.shape {
            Shape::Micro(_) => 0.0,
            Shape::Checkpoint { .. } => PROCESSOR,
        }
    }

    /// Of the model where it computes.
    fn footprint(&self, on_gpu: bool) -> Option<Box<dyn Footprint>> {
        Some(match &self.shape {
            Shape::Micro(sizes) => Box::new(MicroFootprint::new(sizes.clone()).ok()?),
            Shape::Checkpoint {
                config,
                precision,
                quantize,
                texts,
                ..
            } => {
                let path = Path::new(CONFIG);
                let config = Config::from_json(path, &config.to_string()).ok()?;
                let whole = HubFootprint::new(config, *precision, *texts);
                Box::new(whole.with_quantize(*quantize, on_gpu))
            }
        })
    }

    /// The facts about a stage's outputs that are models of this shape.
    fn facts(&self, outputs: &[OutputDecl]) -> BTreeMap<String, Fact> {
        let fact = Fact::new(self.clone());
        outputs
            .iter()
            .filter(|output| output.artifact == ArtifactType::Model)
            .map(|output| (output.name.clone(), fact.clone()))
            .collect()
    }

    /// The forecast of the stage that writes the model first; `random` weights are in memory, those of a checkpoint
    /// are copied from file to file.
    pub(crate) fn made(
        &self,
        prospect: &Prospect,
        outputs: &[OutputDecl],
        random: bool,
    ) -> Forecast {
        let memory = self.footprint(on_gpu(prospect)).map(|model| {
            let bytes = match random {
                // They are drawn and written as they are, and quantised by whoever reads them.
                true => model.parameters() * model.number() + model.saving(false),
                false => 0.0,
            };
            memory_of(
                prospect,
                [model.parameters(), 0.0],
                0.0,
                bytes,
                memory::process(0.0, bytes),
            )
        });
        Forecast {
            memory,
            facts: self.facts(outputs),
            ..Forecast::default()
        }
    }
}

/// Training with forward passes of some of a set's samples.
pub(crate) struct Training<'a> {
    /// The stage's own limits of an image's area.
    pub(crate) pixels: PixelLimits,
    /// Adapters; without them all weights.
    pub(crate) lora: Option<&'a LoraConfig>,
    /// Groups whose weights stay as they are.
    pub(crate) frozen: &'a BTreeSet<ModuleGroup>,
    /// Questions of one forward pass.
    pub(crate) questions: usize,
    /// Answers to each of them.
    pub(crate) answers: usize,
    /// Largest number of tokens of an answer; none takes the set's own.
    pub(crate) answer_tokens: Option<usize>,
    /// Dropout is drawn.
    pub(crate) dropout: bool,
    /// Only what goes into each block is kept.
    pub(crate) checkpointing: bool,
    /// Several forward passes make one update.
    pub(crate) accumulates: bool,
    /// As in [`Update::offload`].
    pub(crate) offload: bool,
    /// As in [`Update::loss`].
    pub(crate) loss: [f64; 2],
    /// Images stay as they are, to be changed at random.
    pub(crate) originals: bool,
    /// Questions whose answers are drawn together, and answers to each, if the trainer draws any.
    pub(crate) draws: Option<[usize; 2]>,
    /// A second copy of the weights.
    pub(crate) reference: bool,
}

impl Training<'_> {
    fn what(&self) -> memory::Training<'_> {
        memory::Training {
            lora: self.lora,
            dropout: self.dropout,
            frozen: self.frozen,
        }
    }
}

/// The forecast of a stage that trains its input model.
pub(crate) fn train(
    prospect: &Prospect,
    outputs: &[OutputDecl],
    training: &Training<'_>,
) -> Forecast {
    let Some(facts) = ModelFacts::of(prospect) else {
        return Forecast::default();
    };
    let trained = ModelFacts {
        adapters: training.lora.cloned(),
        ..facts.clone()
    };
    let mut problems: Vec<ParamProblem> = facts.refuses(training.pixels).into_iter().collect();
    let facts = facts.within(training.pixels);
    let model = facts.footprint(on_gpu(prospect));
    let memory = model.map(|model| {
        let refused = model.refuses(training.what(), facts.adapters.as_ref());
        let problem =
            |(field, error): (&str, VlmError)| ParamProblem::new(field, error.to_string());
        problems.extend(refused.map(problem));
        if training.checkpointing && !model.can_checkpoint() {
            problems.push(ParamProblem::new(
                "gradient_checkpointing",
                NO_CHECKPOINTING,
            ));
        }
        train_memory(prospect, &facts, model.as_ref(), training)
    });
    Forecast {
        memory,
        facts: trained.facts(outputs),
        problems,
    }
}

fn train_memory(
    prospect: &Prospect,
    facts: &ModelFacts,
    model: &dyn Footprint,
    training: &Training<'_>,
) -> Memory {
    let data = DataFacts::of(prospect);
    let mut tokens = data.tokens(model, training.questions as f64);
    if let Some(most) = training.answer_tokens {
        tokens.answer = model.longest_answer().min(most as f64);
    }
    let update = Update {
        batch: Batch {
            questions: training.questions as f64,
            answers: training.answers as f64,
            tokens,
            on_gpu: on_gpu(prospect),
        },
        training: training.what(),
        checkpointing: training.checkpointing,
        accumulates: training.accumulates,
        offload: training.offload,
        loss: training.loss,
    };
    let trained = model.trained(update.training);
    let peak = memory::train(model, &update, facts.adapters.as_ref());
    let mut bytes = peak.peak;
    let mut activations = peak.activations;
    if let Some([questions, answers]) = training.draws {
        let asked = Generation {
            questions: questions as f64,
            answers: answers as f64,
            tokens,
            threads: threads(prospect),
            on_gpu: on_gpu(prospect),
            adapters: training.lora,
        };
        let drawing = memory::generate(model, &asked);
        let moments = match training.offload && on_gpu(prospect) {
            true => 0.0,
            false => 8.0 * trained,
        };
        let held = model.weights(training.lora) + moments;
        bytes = bytes.max(held + drawing);
        activations = activations.max(drawing);
    }
    if training.reference {
        bytes += model.weights(None);
    }
    let adapters = if training.lora.is_some() {
        trained
    } else {
        0.0
    };
    let numbers = [model.parameters() + adapters, trained];
    let host = facts.processor()
        + memory::process(threads(prospect), activations)
        + data.kept(model, training.originals);
    memory_of(prospect, numbers, activations, bytes, host)
}

/// The forecast of a stage that asks its input model about a set, so many answers of so many tokens per sample.
pub(crate) fn ask(
    prospect: &Prospect,
    answers: u32,
    max_new_tokens: usize,
    limits: PixelLimits,
) -> Forecast {
    let Some(facts) = ModelFacts::of(prospect) else {
        return Forecast::default();
    };
    let problems = facts.refuses(limits).into_iter().collect();
    let facts = facts.within(limits);
    let memory = facts.footprint(on_gpu(prospect)).map(|model| {
        let model = model.as_ref();
        let data = DataFacts::of(prospect);
        let chunk = data.samples(model.at_once(on_gpu(prospect)));
        let mut tokens = data.tokens(model, chunk);
        let drawn = data.samples.unwrap_or(0) as f64 * f64::from(answers);
        let written = drawn * (ANSWER + ANSWER_TOKEN * tokens.answer);
        tokens.answer = model.longest_answer().min(max_new_tokens as f64);
        let asked = Generation {
            questions: chunk,
            answers: f64::from(answers),
            tokens,
            threads: threads(prospect),
            on_gpu: on_gpu(prospect),
            adapters: facts.adapters.as_ref(),
        };
        let writing = memory::generate(model, &asked);
        let weights = model.weights(facts.adapters.as_ref());
        let adapters = facts.adapters.as_ref();
        let adapters = adapters.map_or(0.0, |lora| model.trained(memory::Training::adapters(lora)));
        let numbers = [model.parameters() + adapters, 0.0];
        // Files are read in the machine's memory.
        let loading = if on_gpu(prospect) {
            0.0
        } else {
            model.loading()
        };
        let bytes = weights + writing.max(loading);
        let host = facts.processor()
            + memory::process(threads(prospect), writing)
            + written
            + data.asked(model, chunk);
        memory_of(prospect, numbers, writing, bytes, host)
    });
    Forecast {
        memory,
        facts: BTreeMap::new(),
        problems,
    }
}

fn threads(prospect: &Prospect) -> f64 {
    prospect.threads as f64
}

fn on_gpu(prospect: &Prospect) -> bool {
    prospect.device != "cpu"
}

/// `bytes` are on the device, `host` bytes in the process wherever it computes.
fn memory_of(
    prospect: &Prospect,
    [parameters, trained]: [f64; 2],
    activations: f64,
    bytes: f64,
    host: f64,
) -> Memory {
    let peak = if on_gpu(prospect) {
        bytes
    } else {
        bytes + host
    };
    Memory {
        parameters: parameters as u64,
        trained: trained as u64,
        activation_bytes: activations as u64,
        peak_bytes: peak as u64,
    }
}
