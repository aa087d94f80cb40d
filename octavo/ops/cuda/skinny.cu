// Products of up to 64 * GROUPS rows, all of 16 bits, sums in float32: y = x @ weight.T + bias + residual, or with an
// activation act(x @ gate.T) * (x @ up.T) + residual.
//
// The weights' bytes are what counts, so they come by the copy engine into a ring as large as shared memory,
// filled before the kernel's turn. A tile of WIDTH weight rows meets all rows of x at once; SHARE blocks of a
// cluster share a tile's inputs and add up their sums through each other's shared memory, always in the same order.
// Compiled with ACT (0: none), HALF (float16, else bfloat16), WIDE (results of float32), WIDTH (where there is an
// activation gate and up are half of it each), SHARE, GROUPS (of four warps, 64 rows each), STAGES.

constexpr bool GATED = ACT != 0;
constexpr int DEPTH = 64;  // inputs a stage: 128 bytes, what a swizzle covers
constexpr int OUTS = GATED ? WIDTH / 2 : WIDTH;
constexpr int ROWS = 64 * GROUPS;
constexpr int X_BYTES = ROWS * DEPTH * 2;
constexpr int W_BYTES = WIDTH * DEPTH * 2;
constexpr int STAGE = X_BYTES + W_BYTES;
constexpr int PITCH = WIDTH | 8;  // floats between two rows of sums: no two of a quarter-warp in one bank
constexpr int WORKERS = 128 * GROUPS;

struct Problem {
    const u16* bias;
    const u16* residual;
    void* out;
    int rows, outputs, depth;
};

// one thread's work: the weights of the first stages before the kernel's turn, then stage after stage
struct Feed {
    const TensorMap *xs, *ws;
    u32 ring, full, empty;
    int tile, from, steps, outputs;

    __device__ int first() const { return min(steps, STAGES); }
    __device__ void weights(int step) const {
        int s = step % STAGES, k = (from + step) * DEPTH;
        u32 to = ring + s * STAGE + X_BYTES, ready = full + 8 * s;
        barrier_expect(ready, STAGE);
        copy_in(to, ws, k, tile * OUTS, ready);
        if (GATED) copy_in(to + W_BYTES / 2, ws, k, outputs + tile * OUTS, ready);
    }
    __device__ void rows(int step) const {
        int s = step % STAGES;
        copy_in(ring + s * STAGE, xs, (from + step) * DEPTH, 0, full + 8 * s);
    }
    __device__ void rest() const {
        wait_turn();
        for (int step = 0; step < first(); ++step) rows(step);
        for (int step = first(); step < steps; ++step) {
            barrier_wait(empty + 8 * (step % STAGES), (step / STAGES + 1) & 1);
            weights(step);
            rows(step);
        }
    }
};

__device__ void multiply(float (&sums)[WIDTH / 2], u32 ring, u32 full, u32 empty, int steps, int group, bool speaks) {
    for (int step = 0; step < steps; ++step) {
        int s = step % STAGES;
        barrier_wait(full + 8 * s, step / STAGES & 1);
        u64 x = tile_of(ring + s * STAGE + group * 64 * DEPTH * 2), w = tile_of(ring + s * STAGE + X_BYTES);
        products_begin();
#pragma unroll
        for (int part = 0; part < DEPTH / 16; ++part) product(sums, x + 2 * part, w + 2 * part, step + part);
        products_commit();
        products_wait<1>();
        if (step && speaks) barrier_arrive(empty + 8 * ((step - 1) % STAGES));
    }
    products_wait<0>();
    products_settle(sums);
}

// two outputs beside each other
__device__ inline void finish(const Problem& p, int row, int column, float a, float b) {
    if (row >= p.rows || column >= p.outputs) return;
    if (!GATED && p.bias) {
        float2 v = unpack(*reinterpret_cast<const u32*>(p.bias + column));
        a += v.x, b += v.y;
    }
    u64 at = u64(row) * p.outputs + column;
    if (p.residual) {
        float2 v = unpack(*reinterpret_cast<const u32*>(p.residual + at));
        a += v.x, b += v.y;
    }
#if WIDE
    reinterpret_cast<float2*>(p.out)[at / 2] = {a, b};
#else
    reinterpret_cast<u32*>(p.out)[at / 2] = pack(a, b);
#endif
}

__device__ void finish_own(const Problem& p, const float (&sums)[WIDTH / 2], int tile, int row, int pair) {
#pragma unroll
    for (int i = 0; i < OUTS / 4; ++i) {  // blocks of eight outputs, of each two rows
        int column = tile * OUTS + 8 * (i / 2) + 2 * pair;
        float a = sums[2 * i], b = sums[2 * i + 1];
        if (GATED) a = activate(a, sums[2 * i + WIDTH / 4]), b = activate(b, sums[2 * i + 1 + WIDTH / 4]);
        finish(p, row + 8 * (i % 2), column, a, b);
    }
}

__device__ inline float4 gather(u32 address) {
    float4 sum = load_from(address, 0);
#pragma unroll
    for (int rank = 1; rank < SHARE; ++rank) {
        float4 v = load_from(address, rank);
        sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
    }
    return sum;
}

__device__ void finish_share(const Problem& p, u32 memory, int tile, int rank, int thread) {
    constexpr int QUADS = OUTS / SHARE / 4;
    for (int i = thread; i < ROWS * QUADS; i += WORKERS) {
        int row = i / QUADS, column = rank * (OUTS / SHARE) + i % QUADS * 4;
        float4 v = gather(memory + (row * PITCH + column) * 4);
        if (GATED) {
            float4 up = gather(memory + (row * PITCH + OUTS + column) * 4);
            v = {activate(v.x, up.x), activate(v.y, up.y), activate(v.z, up.z), activate(v.w, up.w)};
        }
        finish(p, row, tile * OUTS + column, v.x, v.y);
        finish(p, row, tile * OUTS + column + 2, v.z, v.w);
    }
}

__device__ void spread(const float (&sums)[WIDTH / 2], u32 memory, int row, int pair) {
#pragma unroll
    for (int i = 0; i < WIDTH / 4; ++i) {
        u32 at = memory + ((row + 8 * (i % 2)) * PITCH + 8 * (i / 2) + 2 * pair) * 4;
        asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(at), "f"(sums[2 * i]), "f"(sums[2 * i + 1]) : "memory");
    }
}

extern "C" __global__ void __launch_bounds__(WORKERS + 32, 1)
    skinny(const __grid_constant__ TensorMap xs, const __grid_constant__ TensorMap ws, const Problem p) {
    extern __shared__ char unaligned[];
    __shared__ alignas(8) u64 barriers[2 * STAGES];
    const u32 ring = (shared_address(unaligned) + 1023) & ~1023u;
    const u32 full = shared_address(barriers), empty = full + 8 * STAGES;
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int rank = SHARE > 1 ? cluster_rank() : 0, tile = blockIdx.x / SHARE;
    const int all = (p.depth + DEPTH - 1) / DEPTH, share = (all + SHARE - 1) / SHARE;
    const int from = rank * share, steps = max(0, min(share, all - from));
    const Feed feed{&xs, &ws, ring, full, empty, tile, from, steps, p.outputs};

    start_next();
    if (thread == WORKERS) {
        for (int s = 0; s < STAGES; ++s) barrier_init(full + 8 * s, 1), barrier_init(empty + 8 * s, WORKERS / 32);
        barriers_visible();
        for (int step = 0; step < feed.first(); ++step) feed.weights(step);
    }
    __syncthreads();

    if (warp == WORKERS / 32) {
        if (lane == 0) feed.rest();
        __syncwarp();
        if (SHARE > 1) cluster_meet(), cluster_meet();
        return;
    }
    float sums[WIDTH / 2] = {};
    multiply(sums, ring, full, empty, steps, warp / 4, lane == 0);
    wait_turn();
    const int row = warp * 16 + lane / 4, pair = lane % 4;
    if (SHARE == 1) {
        finish_own(p, sums, tile, row, pair);
        return;
    }
    meet(1, WORKERS);  // all have read the ring
    spread(sums, ring, row, pair);
    cluster_meet();
    finish_share(p, ring, tile, rank, thread);
    cluster_meet();  // nobody leaves while another reads its sums
}
