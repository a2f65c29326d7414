//! A real GPU, through CUDA's libraries.
//!
//! The only folder with unsafe code: it calls C. What it is asked it checks first, so that nobody else can
//! make a call that reaches beyond memory that was allocated; what kernels do with what they are given is
//! the kernels' own affair, and happens in the GPU's memory.
#![expect(unsafe_code, reason = "CUDA's libraries are C, and here is where they are called")]

mod card;
mod fetched;
mod products;
mod recordings;

pub(in crate::native) use card::Card;
#[cfg(test)]
pub(super) use card::open_nvrtc;

use self::{
    fetched::Fetched,
    products::{Known, Products, WORKSPACE},
    recordings::Recordings,
};
use super::device::{
    Argument, Device, Half, KERNELS, Launch, Mark, Memory, Product, Recording, Shape, rounded,
};
use crate::engine::EngineError;
use cudarc::{
    cublaslt::result as lt,
    driver::{
        CudaContext, CudaEvent, CudaFunction, CudaModule, CudaStream, DriverError, PinnedHostSlice,
        result,
    },
    nvrtc::{Ptx, result as nvrtc, sys as nvrtc_sys},
};
use std::{
    collections::{BTreeMap, HashMap},
    ffi::{CString, c_void},
    fmt, ptr,
    sync::Arc,
};

/// The kernels' source, with the compiler told where each file begins.
const SOURCE: &str = concat!(
    include_str!("../kernels.cu"),
    "\n#line 1 \"choosing.cu\"\n",
    include_str!("../choosing.cu")
);

/// Bytes that are written without waiting for the GPU, at most: more than a step is told, but for one of
/// very long contexts, or of very many tokens that are penalised.
const STAGED: usize = 16 << 20;

/// A GPU.
pub(super) struct Driver {
    name: String,
    half: Half,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    /// Reads, which don't wait for what `stream` was told after what they wait for.
    reading: Arc<CudaStream>,
    /// The last two marks.
    marked: [CudaEvent; 2],
    marks: usize,
    stages: [Stage; 2],
    functions: HashMap<&'static str, CudaFunction>,
    _module: Arc<CudaModule>,
    products: Products,
    recordings: Recordings,
    fetched: Fetched,
    workspace: Memory,
    /// Where each piece of memory ends, by where it begins.
    allocated: BTreeMap<u64, u64>,
}

/// Memory from which the GPU fetches what is written while the writer goes on: it is page-locked.
struct Stage {
    memory: PinnedHostSlice<u8>,
    /// What was written last.
    fetched: CudaEvent,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Driver {
    /// Opens the machine's first GPU, and compiles the kernels for it.
    pub(super) fn open(shape: Shape) -> Result<Self, EngineError> {
        let Card { name, kind: (major, minor), context } = Card::open()?;
        let options = [shape.definitions(), vec![format!("--gpu-architecture=sm_{major}{minor}")]];
        let image = compile(&options.concat())?;
        let module = context
            .load_module(Ptx::from_binary(image))
            .map_err(|error| failed("load the kernels", error))?;
        let mut functions = HashMap::new();
        for kernel in KERNELS {
            let function =
                module.load_function(kernel).map_err(|error| failed("load a kernel", error))?;
            functions.insert(kernel, function);
        }
        let no_work = |error| failed("be given work", error);
        let stream = context.new_stream().map_err(no_work)?;
        let reading = context.new_stream().map_err(no_work)?;
        let event = || context.new_event(None).map_err(no_work);
        let stage = || {
            // SAFETY: what is in it is never taken for anything before it is written.
            let memory = unsafe { context.alloc_pinned(STAGED) }.map_err(no_work)?;
            Ok(Stage { memory, fetched: event()? })
        };
        let (marked, stages) = ([event()?, event()?], [stage()?, stage()?]);
        let handle = lt::create_handle()
            .map_err(|error| EngineError::machine(format!("cuBLASLt can't be started: {error}")))?;
        let mut driver = Self {
            name,
            half: shape.half,
            context,
            stream,
            reading,
            marked,
            marks: 0,
            stages,
            functions,
            _module: module,
            products: Products { handle, known: HashMap::new() },
            recordings: Recordings::default(),
            fetched: Fetched::default(),
            workspace: Memory { address: 0, bytes: 0 },
            allocated: BTreeMap::new(),
        };
        driver.workspace = driver.allocate(WORKSPACE)?;
        Ok(driver)
    }

    /// Whether it was allocated here.
    fn is_own(&self, memory: Memory) -> bool {
        let end = memory.address + memory.bytes as u64;
        let own = self.allocated.range(..=memory.address).next_back();
        own.is_some_and(|(_, own_end)| end <= *own_end)
    }

    fn wait_for(&self, mark: Mark) -> Result<(), EngineError> {
        assert!(self.marks < mark.0 + 2, "a mark is one of the last two");
        self.bind()?;
        let done = self.marked[mark.0 % 2].synchronize();
        done.map_err(|error| failed("carry out a step", error))
    }

    fn bind(&self) -> Result<(), EngineError> {
        self.context.bind_to_thread().map_err(|error| failed("be used by a thread", error))
    }
}

impl Device for Driver {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn free_bytes(&self) -> Result<u64, EngineError> {
        self.bind()?;
        let (free, _) =
            result::mem_get_info().map_err(|error| failed("say how much memory it has", error))?;
        Ok(free as u64)
    }

    fn allocate(&mut self, bytes: usize) -> Result<Memory, EngineError> {
        self.bind()?;
        // SAFETY: a call without a pointer of ours; what is in the memory is never taken for anything
        // before it is written.
        let address = unsafe { result::malloc_sync(bytes.max(1)) }.map_err(|error| {
            EngineError::machine(format!(
                "the GPU {} has no room for {bytes} bytes more ({error}): take a smaller model, a larger \
                 GPU, or lower the batch or the KV cache",
                self.name
            ))
        })?;
        let memory = Memory { address, bytes };
        self.allocated.insert(address, address + bytes as u64);
        Ok(memory)
    }

    fn write(&mut self, to: Memory, bytes: &[u8]) -> Result<(), EngineError> {
        assert!(bytes.len() <= to.bytes && self.is_own(to), "what is written has room");
        self.bind()?;
        let failed = |error: DriverError| failed("be written to", error);
        if STAGED < bytes.len() {
            // SAFETY: the target was allocated and is long enough, and the source stays until it was fetched.
            unsafe { result::memcpy_htod_async(to.address, bytes, self.stream.cu_stream()) }
                .map_err(failed)?;
            return self.stream.synchronize().map_err(failed);
        }
        self.stages.reverse();
        let [Stage { memory, fetched }, _] = &mut self.stages;
        fetched.synchronize().map_err(failed)?;
        let staged = &mut memory.as_mut_slice().map_err(failed)?[..bytes.len()];
        staged.copy_from_slice(bytes);
        // SAFETY: the target was allocated and is long enough, and the source stays as it is until it was
        // fetched.
        unsafe { result::memcpy_htod_async(to.address, staged, self.stream.cu_stream()) }
            .map_err(failed)?;
        fetched.record(&self.stream).map_err(failed)
    }

    fn mark(&mut self) -> Result<Mark, EngineError> {
        self.marks += 1;
        let event = &self.marked[self.marks % 2];
        event.record(&self.stream).map_err(|error| failed("be given work", error))?;
        Ok(Mark(self.marks))
    }

    fn read_at(&mut self, mark: Mark, from: Memory, bytes: &mut [u8]) -> Result<(), EngineError> {
        assert!(bytes.len() <= from.bytes && self.is_own(from), "what is read is there");
        self.wait_for(mark)?;
        let failed = |error: DriverError| failed("carry out a step", error);
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: the source was allocated and is long enough, and nobody looks at the target before
        // the stream is done.
        unsafe { result::memcpy_dtoh_async(bytes, from.address, self.reading.cu_stream()) }
            .map_err(failed)?;
        self.reading.synchronize().map_err(failed)
    }

    fn fetch_at(&mut self, mark: Mark, pieces: &[Memory]) -> Result<(), EngineError> {
        assert!(pieces.iter().all(|piece| self.is_own(*piece)), "what is fetched is there");
        self.wait_for(mark)?;
        let fetched = self.fetched.fetch(pieces, &self.reading);
        fetched.map_err(|error| failed("give its logits to the computer", error))
    }

    fn fetched(&self) -> &[u8] {
        self.fetched.bytes()
    }

    fn multiply(&mut self, product: &Product) -> Result<(), EngineError> {
        self.bind()?;
        let Product { weights, input, output, rows, columns, depth, is_wide } = *product;
        let out_bytes = if is_wide { size_of::<f32>() } else { size_of::<u16>() };
        let fits = |rows: usize| {
            rows * depth * size_of::<u16>() <= input.bytes
                && rows * columns * out_bytes <= output.bytes
        };
        // With a few rows more there are few sizes, and each is looked up once.
        let rows = Some(rounded(rows)).filter(|rows| fits(*rows)).unwrap_or(rows);
        let has_weights = columns * depth * size_of::<u16>() <= weights.bytes;
        let are_own = [weights, input, output].iter().all(|memory| self.is_own(*memory));
        assert!(fits(rows) && has_weights && are_own, "a product's matrices are there");
        let sizes = (rows, columns, depth, is_wide);
        let failed = |error: lt::CublasError| {
            EngineError::machine(format!(
                "the GPU {} can't multiply {rows} rows by {depth} × {columns} ({error}): take another \
                 image, whose CUDA is newer, or another engine",
                self.name
            ))
        };
        if !self.products.known.contains_key(&sizes) {
            let known = Known::new(self.products.handle, self.half, sizes).map_err(failed)?;
            self.products.known.insert(sizes, known);
        }
        let known = &self.products.known[&sizes];
        let (one, zero) = (1.0_f32, 0.0_f32);
        // SAFETY: the descriptors are those of the sizes, for which the matrices and the workspace were
        // seen to be large enough; the factors are read before the call returns.
        unsafe {
            lt::matmul(
                self.products.handle,
                known.product,
                ptr::from_ref(&one).cast(),
                ptr::from_ref(&zero).cast(),
                weights.address as *const c_void,
                known.weights,
                input.address as *const c_void,
                known.input,
                output.address as *const c_void,
                known.output,
                output.address as *mut c_void,
                known.output,
                &raw const known.algorithm,
                self.workspace.address as *mut c_void,
                self.workspace.bytes,
                self.stream.cu_stream().cast(),
            )
        }
        .map_err(failed)
    }

    fn launch(&mut self, launch: &Launch<'_>) -> Result<(), EngineError> {
        self.bind()?;
        let Launch { kernel, grid, threads, arguments } = *launch;
        let function = self.functions.get(kernel).expect("all kernels were loaded");
        let words: Vec<u64> = arguments
            .iter()
            .map(|argument| match argument {
                Argument::Address(None) => 0,
                Argument::Address(Some(memory)) => {
                    assert!(self.is_own(*memory), "a kernel is given memory that is there");
                    memory.address
                }
                Argument::Number(number) => u64::from(number.cast_unsigned()),
                Argument::Fraction(fraction) => u64::from(fraction.to_bits()),
            })
            .collect();
        let mut pointers: Vec<*mut c_void> =
            words.iter().map(|word| ptr::from_ref(word).cast_mut().cast()).collect();
        let [width, height] = grid.map(|blocks| u32::try_from(blocks).expect("a grid has room"));
        let threads = u32::try_from(threads).expect("a block has up to 1024 threads");
        // SAFETY: there are as many arguments as the kernel takes and they are of its kinds, which a test
        // checks for each kernel; the driver has copied them when the call returns. Small numbers are at
        // the start of their words on the little-endian machines that CUDA runs on.
        unsafe {
            result::launch_kernel(
                function.cu_function(),
                (width, height, 1),
                (threads, 1, 1),
                0,
                self.stream.cu_stream(),
                &mut pointers,
            )
        }
        .map_err(|error| failed(&format!("run the kernel {kernel}"), error))
    }

    fn record(&mut self) -> Result<(), EngineError> {
        self.bind()?;
        Recordings::begin(&self.stream).map_err(not_recorded)
    }

    fn recorded(&mut self) -> Result<Recording, EngineError> {
        self.bind()?;
        self.recordings.end(&self.stream).map_err(not_recorded)
    }

    fn replay(&mut self, recording: Recording) -> Result<(), EngineError> {
        self.bind()?;
        self.recordings.replay(recording, &self.stream).map_err(not_recorded)
    }

    fn forget(&mut self) -> Result<(), EngineError> {
        self.bind()?;
        self.stream.synchronize().map_err(|error| failed("carry out a step", error))?;
        self.recordings.free();
        Ok(())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // A GPU that fails now has no work of ours left.
        drop(self.bind());
        self.stream.synchronize().unwrap_or_default();
        self.reading.synchronize().unwrap_or_default();
        self.recordings.free();
        self.fetched.free();
        for known in self.products.known.values() {
            // SAFETY: they were made, are freed once, and no product is under way.
            unsafe {
                lt::destroy_matmul_desc(known.product).unwrap_or_default();
                for layout in [known.weights, known.input, known.output] {
                    lt::destroy_matrix_layout(layout).unwrap_or_default();
                }
            }
        }
        // SAFETY: as above.
        unsafe { lt::destroy_handle(self.products.handle) }.unwrap_or_default();
        for address in self.allocated.keys() {
            // SAFETY: as above.
            unsafe { result::free_sync(*address) }.unwrap_or_default();
        }
    }
}

fn failed(what: &str, error: DriverError) -> EngineError {
    EngineError::machine(format!(
        "the GPU can't {what} ({error}): if `nvidia-smi` fails there too, the machine is broken; take another"
    ))
}

fn not_recorded(error: DriverError) -> EngineError {
    EngineError::machine(format!("its steps can't be recorded and replayed ({error})"))
}

/// Compiles the kernels to what a card runs. NVRTC must be open.
pub(super) fn compile(options: &[String]) -> Result<Vec<u8>, EngineError> {
    let source = CString::new(SOURCE).expect("the source has no zeros");
    let failed = |error: nvrtc::NvrtcError, log: &str| {
        EngineError::machine(format!(
            "the kernels can't be compiled for this GPU ({error}): take an image whose CUDA is newer. {log}"
        ))
    };
    let program =
        nvrtc::create_program(&source, Some(c"kernels.cu")).map_err(|error| failed(error, ""))?;
    // SAFETY: the program was made just now and is destroyed last; the image is as long as NVRTC says.
    unsafe {
        let compiled = nvrtc::compile_program(program, options).map_err(|error| {
            let log = nvrtc::get_program_log(program).unwrap_or_default();
            let log: Vec<u8> = log.iter().map(|byte| byte.cast_unsigned()).collect();
            failed(error, String::from_utf8_lossy(&log).trim_end_matches('\0'))
        });
        let image = compiled.and_then(|()| {
            let mut bytes = 0;
            let asked = nvrtc_sys::nvrtcGetCUBINSize(program, &raw mut bytes).result();
            asked.map_err(|error| failed(error, ""))?;
            let mut image = vec![0_u8; bytes];
            let got = nvrtc_sys::nvrtcGetCUBIN(program, image.as_mut_ptr().cast()).result();
            got.map_err(|error| failed(error, "")).map(|()| image)
        });
        // A program that can't be freed is a few bytes lost.
        nvrtc::destroy_program(program).unwrap_or_default();
        image
    }
}
