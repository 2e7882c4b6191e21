//! What the micro VLM takes of memory.

use dcsft_vlm::error::VlmError;
use dcsft_vlm::lora::{LoraConfig, ModuleGroup};
use dcsft_vlm::memory::{
    Attention, Batch, F32, Footprint, Linear, Step, Tokens, Trained, Training,
};

use super::config::{BlocksConfig, MicroConfig};
use super::modules::Modules;
use super::tokenizer::WordCharTokenizer;
use crate::modules::{Declared, Layers};
use crate::training::{self, trained};

/// The memory of a micro VLM of some size.
#[derive(Clone, Debug)]
pub struct MicroFootprint {
    config: MicroConfig,
    layers: Layers,
    vocab: f64,
}

impl MicroFootprint {
    /// Of a model of this size.
    ///
    /// # Errors
    /// As [`super::MicroVlm::new`].
    pub fn new(config: MicroConfig) -> Result<Self, VlmError> {
        use dcsft_vlm::model::Tokenizer as _;
        config.validate()?;
        let tokenizer = WordCharTokenizer::new(&config.words, &config.characters)?;
        let (mut layers, vocab) = (Layers::default(), tokenizer.vocab_size());
        Modules::new(&mut layers, &config, vocab);
        Ok(Self {
            config,
            layers,
            vocab: vocab as f64,
        })
    }
}

/// Rows of a block: those that go in, those asked for, and attention weights of one head.
struct Rows {
    given: f64,
    asked: f64,
    attention: f64,
    on_gpu: bool,
}

fn block(blocks: &BlocksConfig, rows: &Rows, group: ModuleGroup, trained: Trained<'_>) -> Step {
    let (width, hidden) = (
        blocks.width as f64,
        (blocks.width * blocks.mlp_ratio) as f64,
    );
    let Rows {
        given,
        asked,
        attention,
        on_gpu,
    } = *rows;
    let mut step = Step::on(given * width);
    let mut linear = |rows, sizes| step.linear(trained.linear(group, rows, sizes, true));
    linear(given, [width, 3.0 * width]);
    linear(asked, [width, width]);
    linear(asked, [width, hidden]);
    linear(asked, [hidden, width]);
    // The two norms' inputs and outputs, the latter being the linear layers' inputs.
    step.keep(2.0 * given * width + 2.0 * asked * width);
    step.attend(Attention {
        packed: 3.0 * given * width,
        weights: blocks.heads as f64 * attention,
        mixed: asked * width,
        beside: asked * width,
        // All its numbers have 32 bits.
        in_blocks: on_gpu,
    });
    // Mixed values; hidden values before and after GELU.
    step.keep(asked * width + 2.0 * asked * hidden);
    step.train(trained.of(group, 4.0 * width));
    step
}

impl Footprint for MicroFootprint {
    fn number(&self) -> f64 {
        4.0
    }

    fn tokens(&self, _pixels: f64, question_bytes: f64, answer_bytes: f64) -> Tokens {
        let room = self.config.max_text_tokens as f64;
        let answer = (answer_bytes + 1.0).min(room);
        let patches = self.config.patches() as f64;
        Tokens {
            patches,
            image: patches,
            // A token is a character or a word.
            question: question_bytes.min(room + 1.0 - answer),
            answer,
        }
    }

    fn longest_answer(&self) -> f64 {
        self.config.max_text_tokens as f64
    }

    fn largest_image(&self) -> f64 {
        self.config.image_size.pow(2) as f64
    }

    fn seen_image(&self, _tokens: &Tokens) -> f64 {
        3.0 * self.largest_image()
    }

    fn steps(&self, batch: &Batch, training: Option<Training<'_>>) -> Vec<Step> {
        let (config, trained) = (&self.config, Trained(training));
        let (vision, decoder) = (&config.vision, &config.decoder);
        let [width, inner] = [vision.width as f64, decoder.width as f64];
        let (patches, per_image) = (batch.patches(), config.patches() as f64);
        let values = patches * config.patch_values() as f64;

        let mut patch = Step::on(values);
        let sizes = [config.patch_values() as f64, width];
        patch.linear(trained.linear(ModuleGroup::Vision, patches, sizes, true));
        patch.keep(values);
        patch.widen(patches * width, patches * width);
        patch.train(trained.of(ModuleGroup::Vision, per_image * width));

        let mut projector = Step::on(patches * width);
        let sizes = [width, inner];
        projector.linear(trained.linear(ModuleGroup::Projector, patches, sizes, true));
        projector.keep(2.0 * patches * width);
        // The tower's last norm.
        projector.train(trained.of(ModuleGroup::Vision, 2.0 * width));

        let rows = batch.rows();
        let mut embed = Step::on(patches * inner);
        embed.widen(rows * inner, 2.0 * rows * inner);
        let positions = config.positions() as f64;
        let tables = (self.vocab + positions) * inner;
        embed.train(trained.of(ModuleGroup::Decoder, tables));

        let asked = batch.asked_rows();
        let mut head = Step::on(asked * inner);
        head.linear(Linear {
            adapter: None,
            ..trained.linear(ModuleGroup::Decoder, asked, [inner, self.vocab], true)
        });
        head.keep(2.0 * asked * inner);
        head.train(trained.of(ModuleGroup::Decoder, 2.0 * inner));

        let image_rows = Rows {
            given: patches,
            asked: patches,
            attention: patches * per_image,
            on_gpu: batch.on_gpu,
        };
        let layers = decoder.layers;
        let decoder_rows = |index| {
            let last = index + 1 == layers;
            Rows {
                given: rows,
                asked: if last { asked } else { rows },
                attention: batch.attention(last),
                on_gpu: batch.on_gpu,
            }
        };
        let vision_blocks =
            (0..vision.layers).map(|_| block(vision, &image_rows, ModuleGroup::Vision, trained));
        let decoder_blocks = (0..layers)
            .map(|index| block(decoder, &decoder_rows(index), ModuleGroup::Decoder, trained));
        [patch]
            .into_iter()
            .chain(vision_blocks)
            .chain([projector, embed])
            .chain(decoder_blocks)
            .chain([head])
            .collect()
    }

    /// The bytes of patches, and a copy that the encoder takes.
    fn images(&self, batch: &Batch) -> f64 {
        2.0 * batch.patches() * self.config.patch_values() as f64 / F32
    }

    fn vocabulary(&self) -> f64 {
        self.vocab
    }

    fn cached_row(&self) -> f64 {
        let decoder = &self.config.decoder;
        2.0 * (decoder.layers * decoder.width) as f64
    }

    fn at_once(&self, _on_gpu: bool) -> f64 {
        super::generate::AT_ONCE as f64
    }

    fn group(&self, _on_gpu: bool, _tokens: &Tokens) -> f64 {
        super::generate::GROUP as f64
    }

    /// Each thread has one of its own.
    fn groups(&self, threads: f64) -> f64 {
        threads
    }

    /// Patches are cut when their group's turn comes.
    fn waiting(&self, _tokens: &Tokens) -> f64 {
        0.0
    }

    fn trained(&self, training: Training<'_>) -> f64 {
        trained(&self.layers, training)
    }

    /// The mapped file, and its values.
    fn loading(&self) -> f64 {
        2.0 * self.weights(None)
    }

    /// One weight at a time: read, turned, and as bytes. The adapters' file has the base's beside it.
    fn saving(&self, _lora: bool) -> f64 {
        let sizes = self.layers.weights.iter().map(Declared::numbers);
        3.0 * self.number() * sizes.max().unwrap_or(0) as f64
    }

    /// A copy of the weights with the adapters merged. Reading the file has turned each matrix: what that freed, as much
    /// as the weights, is still with the allocator.
    fn can_checkpoint(&self) -> bool {
        false
    }

    fn refuses(
        &self,
        training: Training<'_>,
        carried: Option<&LoraConfig>,
    ) -> Option<(&'static str, VlmError)> {
        training::refuses(&self.layers, false, training, carried)
    }

    fn generating(&self, adapters: Option<&LoraConfig>) -> f64 {
        let copies = if adapters.is_some() { 1.0 } else { 0.0 };
        (copies + 1.0) * self.weights(None)
    }
}
