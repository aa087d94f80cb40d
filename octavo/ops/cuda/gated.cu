// Gate and up of many rows in one product: y = act(x @ gate.T) * (x @ up.T), all of 16 bits, sums in float32.
//
// A block makes 128 rows by 128 outputs (256 weight rows: gate's and up's), two warpgroups of 64 rows each; one
// thread feeds them through a ring by the copy engine. Two blocks of a cluster stand one above the other: each
// fetches half of the weights they share into both. Blocks stay and take tile after tile; results leave by the
// copy engine, too. Compiled with ACT, HALF, and
// BAND: tiles of 256 rows that pass over the weights together.

constexpr int DEPTH = 64, STAGES = 4, WORKERS = 256;
constexpr int X_BYTES = 128 * DEPTH * 2, W_HALF = 128 * DEPTH * 2, STAGE = X_BYTES + 2 * W_HALF;
constexpr int OUT_BYTES = 64 * 64 * 2;  // a box of results

struct Tiles {
    int tall, wide, step;

    __device__ void place(int t, int& m, int& n) const {
        int band = t / (BAND * wide), first = band * BAND, height = min(BAND, tall - first);
        int within = t - first * wide;
        m = first + within % height, n = within / height;
    }
    __device__ int count() const { return tall * wide; }
};

__device__ void bring(const TensorMap* xs, const TensorMap* ws, const Tiles& tiles, u32 ring, u32 full, u32 empty,
                      int steps, int outputs, int rank) {
    int s = 0;
    u32 phase = 1;
    for (int t = blockIdx.x / 2; t < tiles.count(); t += tiles.step) {
        int m, n;
        tiles.place(t, m, n);
        int row = m * 256 + rank * 128, weight = n * 128 + rank * outputs;
        for (int step = 0; step < steps; ++step) {
            u32 to = ring + s * STAGE, ready = full + 8 * s;
            barrier_wait(empty + 8 * s, phase);
            barrier_expect(ready, STAGE);
            copy_in(to, xs, step * DEPTH, row, ready);
            copy_in_all(to + X_BYTES + rank * W_HALF, ws, step * DEPTH, weight, ready, 3);
            if (++s == STAGES) s = 0, phase ^= 1;
        }
    }
}

__device__ inline void free_stage(u32 empty, int s, int lane) {
    if (lane < 2) barrier_arrive_at(empty + 8 * s, lane);
}

// the results of one warpgroup: 64 rows of 128, as two boxes of 64 by 64, each row's 16-byte parts swizzled
__device__ void store(const float (&sums)[128], u32 boxes, int warp, int lane) {
    int row = warp % 4 * 16 + lane % 16, right = lane / 16;
#pragma unroll
    for (int block = 0; block < 16; block += 2) {
        u32 v[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float* gate = sums + 4 * (block + i / 2) + 2 * (i % 2);
            v[i] = pack(activate(gate[0], gate[64]), activate(gate[1], gate[65]));
        }
        int column = block + right;
        u32 at = boxes + column / 8 * OUT_BYTES + row * 128 + (column % 8 ^ row % 8) * 16;
        asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(v[0]),
                     "r"(v[1]), "r"(v[2]), "r"(v[3])
                     : "memory");
    }
}

__device__ void work(const TensorMap* ys, const Tiles& tiles, u32 ring, u32 full, u32 empty, u32 boxes, int steps,
                     int rank, int warp, int lane) {
    const int group = warp / 4;
    const bool leads = warp % 4 == 0 && lane == 0;
    int s = 0, before = 0;
    u32 phase = 0;
    float sums[128];
    for (int t = blockIdx.x / 2; t < tiles.count(); t += tiles.step) {
        int m, n;
        tiles.place(t, m, n);
        for (int step = 0; step < steps; ++step) {
            barrier_wait(full + 8 * s, phase);
            u64 x = tile_of(ring + s * STAGE + group * 64 * DEPTH * 2), w = tile_of(ring + s * STAGE + X_BYTES);
            products_begin();
#pragma unroll
            for (int part = 0; part < DEPTH / 16; ++part) product(sums, x + 2 * part, w + 2 * part, step + part);
            products_commit();
            products_wait<1>();
            if (step) free_stage(empty, before, lane);
            before = s;
            if (++s == STAGES) s = 0, phase ^= 1;
        }
        products_wait<0>();
        free_stage(empty, before, lane);
        if (leads) copies_read();
        meet(1 + group, 128);
        store(sums, boxes, warp, lane);
        show_engine();
        meet(1 + group, 128);
        if (leads) {
            int row = m * 256 + rank * 128 + group * 64;
            copy_out(ys, n * 128, row, boxes);
            copy_out(ys, n * 128 + 64, row, boxes + OUT_BYTES);
        }
    }
    if (leads) copies_done();
}

extern "C" __global__ void __launch_bounds__(WORKERS + 128, 1)
    gated(const __grid_constant__ TensorMap xs, const __grid_constant__ TensorMap ws,
          const __grid_constant__ TensorMap ys, int rows, int outputs, int depth) {
    extern __shared__ char unaligned[];
    __shared__ alignas(8) u64 barriers[2 * STAGES];
    const u32 ring = (shared_address(unaligned) + 1023) & ~1023u, boxes = ring + STAGES * STAGE;
    const u32 full = shared_address(barriers), empty = full + 8 * STAGES;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, rank = cluster_rank();
    const int steps = (depth + DEPTH - 1) / DEPTH;
    const Tiles tiles{(rows + 255) / 256, (outputs + 127) / 128, int(gridDim.x) / 2};

    if (threadIdx.x == WORKERS) {
        for (int s = 0; s < STAGES; ++s) barrier_init(full + 8 * s, 1), barrier_init(empty + 8 * s, 2 * WORKERS / 32);
        barriers_visible();
        fetch_map(&xs), fetch_map(&ws), fetch_map(&ys);
    }
    wait_turn();
    cluster_meet();
    if (warp >= WORKERS / 32) {
        leave_registers<40>();
        if (threadIdx.x == WORKERS) bring(&xs, &ws, tiles, ring, full, empty, steps, outputs, rank);
    } else {
        take_registers<232>();
        work(&ys, tiles, ring, full, empty, boxes + warp / 4 * 2 * OUT_BYTES, steps, rank, warp, lane);
    }
    __syncwarp();
    cluster_meet();  // the other block's copies and arrivals have come
}
