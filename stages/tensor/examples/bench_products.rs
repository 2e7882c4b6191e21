//! Speed of burn's kernels for products of matrices in the shapes of a model, in GFLOP/s: which of them a device should use.
//! Qwen2.5-VL-3B's by default; `SHAPES=8x64x32,..` are others, rows x inner x columns. A kernel that the device cannot run is
//! a dash, and one whose result is off by more than rounding is marked by `!`. The peer is `auto`, burn's own choice, with
//! which the models' products in 16 bits are made.
//!
//! `cargo run --release -p dcsft-tensor --features cuda --example bench_products [DEVICE] [f32|bf16|f16] [SECONDS]`

fn main() -> Result<(), Box<dyn std::error::Error>> {
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    return products::run();
    #[cfg(not(any(feature = "cuda", feature = "wgpu")))]
    Err("this build has no device with kernels: build it with the feature `cuda` or `wgpu`".into())
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
#[expect(clippy::print_stdout, reason = "an example prints its result")]
mod products {
    use std::error::Error;
    use std::time::{Duration, Instant};

    use burn::backend::Cube;
    use burn::backend::tensor::FloatTensor;
    use burn::tensor::{DType, Device, Distribution, FloatDType, Tensor};
    use cubecl::prelude::*;
    use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
    use cubek::matmul::launch::launch_ref;
    use cubek::matmul::multi_level::Strategy as Routine;
    use cubek::matmul::strategy::Strategy;
    use cubek::std::InputBinding;
    use dcsft_tensor::device::{DeviceSpec, computes_in};
    use dcsft_tensor::host;
    use dcsft_tensor::ops::{self, Activation};

    type Failure = Box<dyn Error>;

    /// Rows x inner x columns of Qwen2.5-VL-3B's layers: of a token of 8 and 256 answers, and of a batch's rows.
    const SHAPES: &str = "8x2048x2048,8x2048x11008,256x2048x2048,256x2048x11008,256x11008x2048,\
                          4096x2048x2048,4096x2048x11008,4096x11008x2048,4096x2048x32,4096x32x2048";

    /// All that need no settings; the first is burn's choice.
    fn strategies() -> Vec<(&'static str, Strategy)> {
        let routines = [
            ("simple cmma", Routine::SimpleCyclicCmma(Default::default())),
            ("simple mma", Routine::SimpleCyclicMma(Default::default())),
            (
                "tilewise cmma",
                Routine::SimpleTilewiseCmma(Default::default()),
            ),
            ("tma mma", Routine::SimpleTmaMma(Default::default())),
            ("double cmma", Routine::DoubleCyclicCmma(Default::default())),
            ("double mma", Routine::DoubleCyclicMma(Default::default())),
            ("double tma mma", Routine::DoubleTmaMma(Default::default())),
            (
                "special tma mma",
                Routine::SpecializedTmaMma(Default::default()),
            ),
            ("ordered mma", Routine::OrderedDoubleMma(Default::default())),
            ("simple unit", Routine::SimpleUnit(Default::default())),
            ("double unit", Routine::DoubleUnit(Default::default())),
        ];
        let named = routines.map(|(name, routine)| (name, routine.into()));
        [("auto", Strategy::Auto)]
            .into_iter()
            .chain(named)
            .collect()
    }

    pub(super) fn run() -> Result<(), Failure> {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let option = |index: usize, default: &'static str| {
            arguments.get(index).map_or(default, String::as_str)
        };
        let device = option(0, "cuda:0").parse::<DeviceSpec>()?.open()?;
        let dtype = match option(1, "bf16") {
            "f32" => DType::F32,
            "bf16" => DType::BF16,
            "f16" => DType::F16,
            other => return Err(format!("no type {other:?}: f32, bf16 or f16").into()),
        };
        if !computes_in(&device, dtype) {
            return Err(format!("the device does not compute in {dtype:?}").into());
        }
        let limit = Duration::from_secs_f64(option(2, "0.2").parse()?);
        let shapes = std::env::var("SHAPES").unwrap_or_else(|_| SHAPES.to_owned());
        let strategies = strategies();
        let names = strategies.iter().map(|(name, _)| format!("{name:>16}"));
        println!("{:>18}{}", "GFLOP/s", names.collect::<String>());
        for shape in shapes.split(',') {
            let sizes: Vec<usize> = shape.split('x').map(str::parse).collect::<Result<_, _>>()?;
            let &[rows, inner, columns] = &sizes[..] else {
                return Err(format!("{shape:?} is not rows x inner x columns").into());
            };
            let case = Case::new([rows, inner, columns], dtype, &device)?;
            let mut line = format!("{shape:>18}");
            for (_, strategy) in &strategies {
                line += &format!("{:>16}", case.cell(strategy, limit)?);
            }
            println!("{line}");
        }
        Ok(())
    }

    /// Two factors, and their product in 32 bits.
    struct Case {
        factors: [Tensor<2>; 2],
        right: Vec<f32>,
        flop: f64,
    }

    impl Case {
        fn new(
            [rows, inner, columns]: [usize; 3],
            dtype: DType,
            device: &Device,
        ) -> Result<Self, Failure> {
            let random = |shape: [usize; 2]| {
                let draw = Distribution::Uniform(-1.0, 1.0);
                Tensor::<2>::random(shape, draw, device).cast(FloatDType::from(dtype))
            };
            let factors = [random([rows, inner]), random([inner, columns])];
            let [a, b] = factors.clone().map(|factor| factor.cast(DType::F32));
            Ok(Self {
                factors,
                right: read(ops::linear(a, &b, None, None, Activation::None))?,
                flop: 2.0 * (rows * inner * columns) as f64,
            })
        }

        /// How fast a kernel is, or that it is none here, or wrong.
        fn cell(&self, strategy: &Strategy, limit: Duration) -> Result<String, Failure> {
            let Some(first) = product(&self.factors, strategy) else {
                return Ok("-".to_owned());
            };
            let Ok(got) = read(first) else {
                return Ok("failed".to_owned());
            };
            let size = self
                .right
                .iter()
                .fold(0f32, |size, value| size.max(value.abs()));
            let errors = got.iter().zip(&self.right).map(|(a, b)| (a - b).abs());
            // A result is rounded to 8 bits in bf16; sums are of 32.
            let wrong = !errors.fold(0f32, f32::max).le(&(0.01 * size));
            let (start, mut count) = (Instant::now(), 0);
            while start.elapsed() < limit {
                // One after the other, each in the place of the one before.
                let mut made = None;
                for _ in 0..10 {
                    made = product(&self.factors, strategy);
                }
                let made = made.ok_or("a kernel that ran once runs again")?;
                // It has done all of them when a value of the last is there.
                read(made.slice([0..1, 0..1]))?;
                count += 10;
            }
            let speed = self.flop * f64::from(count) / start.elapsed().as_secs_f64() / 1e9;
            Ok(format!("{speed:.1}{}", if wrong { " !" } else { "" }))
        }
    }

    fn read(tensor: Tensor<2>) -> Result<Vec<f32>, Failure> {
        Ok(host::values(tensor.cast(DType::F32))?)
    }

    /// None where the device cannot run that kernel.
    fn product([a, b]: &[Tensor<2>; 2], strategy: &Strategy) -> Option<Tensor<2>> {
        let shape = [a.dims()[0], b.dims()[1]];
        let out = Tensor::<2>::empty(shape, (&a.device(), a.dtype()));
        let number = match a.dtype() {
            DType::BF16 => half::bf16::elem_type_native(),
            DType::F16 => half::f16::elem_type_native(),
            _ => f32::elem_type_native(),
        };
        let [a, b, out] = [a, b, &out].map(|tensor| primitive(tensor.clone()));
        let mut types = MatmulElems::from_globals(&MatmulGlobalElems {
            lhs: number,
            rhs: number,
            out: number,
        });
        let client = out.client.clone();
        let [left, right] = [a, b].map(|factor| InputBinding::new(factor.binding(), number));
        let launched = launch_ref(
            strategy,
            &client,
            left,
            right,
            out.clone().binding(),
            &mut types,
        );
        launched.ok()?;
        Some(Tensor::from_primitive::<Cube>(out))
    }

    fn primitive(tensor: Tensor<2>) -> FloatTensor<Cube> {
        tensor
            .try_into_primitive::<Cube>()
            .expect("a tensor of a device")
    }
}
