// What the GPU does between the products, but for choosing tokens (choosing.cu). Compiled for the card that is found and the model that is run.
//
// Defined from outside: HEAD_DIM floats of a head, GROUP query heads to a head of keys, and HALF_IS_F16:
// 1 where 16-bit numbers are IEEE 754's, 0 where they are the upper halves of 32-bit ones.
//
// No header is included, so that a machine needs NVRTC only. Everything that is not plain C++ stands in the
// first part; the tests put functions of their own in its place and run the rest on a processor.

// Positions of a block of the cache.
#define BLOCK 32
// Floats of a head in memory: attention takes 32 at a time, and those beyond HEAD_DIM are 0.
#define HEAD_PAD ((HEAD_DIM + 31) / 32 * 32)
// Rows of a tile of attention. A row is a query head of a token.
#define TILE 16
// Rows of a part, which is what is left of a tile whose context is split.
#define PART (GROUP < TILE ? GROUP : TILE)
#define ALL_LANES 0xffffffffu
#define INFINITE __int_as_float(0x7f800000)

typedef unsigned short Half;
typedef unsigned long long Mass;

#ifndef EMULATED

__device__ __forceinline__ float widen(Half bits) {
#if HALF_IS_F16
    float out;
    asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(bits));
    return out;
#else
    return __uint_as_float((unsigned)bits << 16);
#endif
}

__device__ __forceinline__ Half narrow(float value) {
    Half out;
#if HALF_IS_F16
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out) : "f"(value));
#else
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out) : "f"(value));
#endif
    return out;
}

// Two numbers in a register, the first in its lower half.
__device__ __forceinline__ unsigned pack(float first, float second) {
    unsigned out;
#if HALF_IS_F16
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(second), "f"(first));
#else
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(second), "f"(first));
#endif
    return out;
}

// Adds the product of 16 rows of 16 numbers and 16 rows of 8, which a warp holds together. With g the lane
// divided by 4 and t the rest, a lane has of the left matrix, in pairs of columns from 2 * t on: row g, row
// g + 8, and both again 8 columns on; of the right matrix, in pairs of rows from 2 * t on, column g, and
// again 8 rows on; and of the sum columns 2 * t and 2 * t + 1 of row g, then of row g + 8.
__device__ __forceinline__ void multiply(float (&sum)[4], const unsigned (&left)[4], unsigned right0,
                                         unsigned right1) {
#if HALF_IS_F16
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
#else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
#endif
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right0), "r"(right1));
}

// Eight numbers from an address that 16 divides.
__device__ __forceinline__ uint4 load8(const Half *from) { return *(const uint4 *)from; }

// Four numbers from an address that 8 divides, or 16 where they have 32 bits; and four to one.
__device__ __forceinline__ uint2 load4(const Half *from) { return *(const uint2 *)from; }
__device__ __forceinline__ float4 load4(const float *from) { return *(const float4 *)from; }
__device__ __forceinline__ void store4(Half *to, uint2 four) { *(uint2 *)to = four; }
__device__ __forceinline__ void store4(float *to, float4 four) { *(float4 *)to = four; }

#endif

// Sums.

__device__ __forceinline__ float sum_of_warp(float value) {
    for (int apart = 16; 0 < apart; apart /= 2) value += __shfl_xor_sync(ALL_LANES, value, apart);
    return value;
}

// The sum over a block of up to 1024 threads, in the same order each time. `scratch` has room for 32.
__device__ __forceinline__ float sum_of_block(float value, float *scratch) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    value = sum_of_warp(value);
    // Somebody may still read what was here.
    __syncthreads();
    if (lane == 0) scratch[warp] = value;
    __syncthreads();
    return sum_of_warp(lane < warps ? scratch[lane] : 0.0f);
}

// The residual stream.

// A block for each token: its row of the embedding. A negative token is one that the step before chose: -1 is
// the first place among chosen tokens, -2 the second. Where that is no token, the prompt is given up, and
// whatever comes of it is nobody's.
extern "C" __global__ void embed(const Half *table, const int *tokens, const int *chosen, float *residual,
                                 int hidden) {
    int token = tokens[blockIdx.x];
    if (token < 0) token = chosen[-1 - token];
    const Half *row = table + (size_t)(token < 0 ? 0 : token) * hidden;
    float *out = residual + (size_t)blockIdx.x * hidden;
    for (int i = threadIdx.x; i < hidden; i += blockDim.x) out[i] = widen(row[i]);
}

// How often a thread takes four columns of its row and keeps them.
#define KEPT 4

// A block for each row: adds a product and a bias to the residual stream, and normalises it. Without
// `product`, `bias` or `rows` there is nothing to add, or every row is meant. No two of `rows` are the same.
extern "C" __global__ void __launch_bounds__(1024)
    add_and_normalise(float *__restrict__ residual, const Half *__restrict__ product, const float *__restrict__ bias,
                      const float *__restrict__ weights, const int *__restrict__ rows, Half *__restrict__ out,
                      int hidden, float epsilon) {
    __shared__ float scratch[32];
    size_t row = rows ? rows[blockIdx.x] : blockIdx.x;
    float *values = residual + row * hidden;
    Half *to = out + (size_t)blockIdx.x * hidden;
    float squares = 0.0f;
    // Which way a row goes depends on the model only.
    if (hidden % 4 == 0 && hidden <= 4 * KEPT * (int)blockDim.x) {
        float4 kept[KEPT], weight[KEPT];
        int first = 4 * threadIdx.x, step = 4 * blockDim.x;
#pragma unroll
        for (int k = 0; k < KEPT; k++)
            if (first + k * step < hidden) kept[k] = load4(values + first + k * step);
        if (product) {
#pragma unroll
            for (int k = 0; k < KEPT; k++)
                if (first + k * step < hidden) {
                    uint2 four = load4(product + row * hidden + first + k * step);
                    kept[k].x += widen((Half)(four.x & 0xffff)), kept[k].y += widen((Half)(four.x >> 16));
                    kept[k].z += widen((Half)(four.y & 0xffff)), kept[k].w += widen((Half)(four.y >> 16));
                }
        }
        if (bias) {
#pragma unroll
            for (int k = 0; k < KEPT; k++)
                if (first + k * step < hidden) {
                    float4 four = load4(bias + first + k * step);
                    kept[k].x += four.x, kept[k].y += four.y, kept[k].z += four.z, kept[k].w += four.w;
                }
        }
#pragma unroll
        for (int k = 0; k < KEPT; k++)
            if (first + k * step < hidden) {
                store4(values + first + k * step, kept[k]);
                squares += kept[k].x * kept[k].x + kept[k].y * kept[k].y;
                squares += kept[k].z * kept[k].z + kept[k].w * kept[k].w;
            }
        // They are on their way while the block adds up.
#pragma unroll
        for (int k = 0; k < KEPT; k++)
            if (first + k * step < hidden) weight[k] = load4(weights + first + k * step);
        float scale = 1.0f / sqrtf(sum_of_block(squares, scratch) / hidden + epsilon);
#pragma unroll
        for (int k = 0; k < KEPT; k++)
            if (first + k * step < hidden) {
                uint2 four;
                four.x = pack(kept[k].x * scale * weight[k].x, kept[k].y * scale * weight[k].y);
                four.y = pack(kept[k].z * scale * weight[k].z, kept[k].w * scale * weight[k].w);
                store4(to + first + k * step, four);
            }
        return;
    }
    for (int i = threadIdx.x; i < hidden; i += blockDim.x) {
        float value = values[i];
        if (product) value += widen(product[row * hidden + i]);
        if (bias) value += bias[i];
        values[i] = value;
        squares += value * value;
    }
    float scale = 1.0f / sqrtf(sum_of_block(squares, scratch) / hidden + epsilon);
    for (int i = threadIdx.x; i < hidden; i += blockDim.x) to[i] = narrow(values[i] * scale * weights[i]);
}

__device__ __forceinline__ float gated(Half gate, Half value) {
    float wide = widen(gate);
    return wide / (1.0f + expf(-wide)) * widen(value);
}

// A block for each row, which has the gates and then what they gate, `width` numbers each.
extern "C" __global__ void gate(const Half *product, Half *out, int width) {
    const Half *gates = product + (size_t)blockIdx.x * 2 * width, *values = gates + width;
    Half *to = out + (size_t)blockIdx.x * width;
    if (width % 8 == 0) {
        for (int i = 8 * threadIdx.x; i < width; i += 8 * blockDim.x) {
            uint4 eight = load8(gates + i), others = load8(values + i);
            unsigned *words = &eight.x, *more = &others.x;
            for (int j = 0; j < 4; j++) {
                float first = gated((Half)(words[j] & 0xffff), (Half)(more[j] & 0xffff));
                words[j] = pack(first, gated((Half)(words[j] >> 16), (Half)(more[j] >> 16)));
            }
            *(uint4 *)(to + i) = eight;
        }
    } else {
        for (int i = threadIdx.x; i < width; i += blockDim.x) to[i] = narrow(gated(gates[i], values[i]));
    }
}

// Queries, keys and values.

// A block for each token: the cosines of its position's angles, then the sines.
extern "C" __global__ void find_angles(const int *positions, const float *frequencies, float *angles) {
    float *out = angles + (size_t)blockIdx.x * HEAD_DIM;
    for (int i = threadIdx.x; i < HEAD_DIM / 2; i += blockDim.x) {
        float angle = (float)positions[blockIdx.x] * frequencies[i];
        out[i] = cosf(angle);
        out[HEAD_DIM / 2 + i] = sinf(angle);
    }
}

// A warp for each head of a token, queries, keys and values: adds biases, normalises where there are
// weights for it, turns queries and keys by their position, and puts them where attention reads them.
// In the cache a block has its keys by position, and its values by place in the head.
extern "C" __global__ void turn_and_keep(const Half *product, const float *bias, const float *query_norm,
                                         const float *key_norm, const float *angles, const int *slots,
                                         Half *queries, Half *keys, Half *values, int kv_heads, float epsilon,
                                         float scale) {
    const int half = HEAD_DIM / 2;
    int heads = kv_heads * GROUP, all = heads + 2 * kv_heads;
    int lane = threadIdx.x % 32, head = blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32;
    if (all <= head) return;
    size_t row = blockIdx.x;
    const Half *from = product + (row * all + head) * HEAD_DIM;
    const float *more = bias ? bias + head * HEAD_DIM : 0;
    int slot = slots[row];
    // A row that makes the number of rows a round one is nobody's.
    if (slot < 0) return;
    if (heads + kv_heads <= head) {
        size_t at = ((size_t)(slot / BLOCK) * kv_heads + head - heads - kv_heads) * HEAD_PAD * BLOCK;
        for (int i = lane; i < HEAD_DIM; i += 32)
            values[at + i * BLOCK + slot % BLOCK] = narrow(widen(from[i]) + (more ? more[i] : 0.0f));
        return;
    }
    bool is_query = head < heads;
    const float *weights = is_query ? query_norm : key_norm;
    float first[(half + 31) / 32], second[(half + 31) / 32], squares = 0.0f;
    for (int i = lane, n = 0; i < half; i += 32, n++) {
        first[n] = widen(from[i]) + (more ? more[i] : 0.0f);
        second[n] = widen(from[i + half]) + (more ? more[i + half] : 0.0f);
        squares += first[n] * first[n] + second[n] * second[n];
    }
    float norm = 1.0f / sqrtf(sum_of_warp(squares) / HEAD_DIM + epsilon);
    size_t block = ((size_t)(slot / BLOCK) * kv_heads + head - heads) * BLOCK;
    Half *out = is_query ? queries + (row * heads + head) * HEAD_PAD : keys + (block + slot % BLOCK) * HEAD_PAD;
    const float *cosines = angles + row * HEAD_DIM, *sines = cosines + half;
    for (int i = lane, n = 0; i < half; i += 32, n++) {
        float a = first[n], b = second[n];
        if (weights) a *= norm * weights[i], b *= norm * weights[i + half];
        float more_or_less = is_query ? scale : 1.0f;
        out[i] = narrow((a * cosines[i] - b * sines[i]) * more_or_less);
        out[i + half] = narrow((b * cosines[i] + a * sines[i]) * more_or_less);
    }
    for (int i = HEAD_DIM + lane; i < HEAD_PAD; i += 32) out[i] = 0;
}

// Attention.

// Up to TILE rows of one sequence, and a range of positions. Row r is query head r % GROUP of token
// r / GROUP.
struct Task {
    // The row in the batch of the sequence's first token there, its position, and how many rows there are;
    // with none there is nothing to do.
    int row, position, rows;
    // The tile's first row.
    int first;
    // Where the sequence's blocks begin in the table.
    int table;
    // The positions.
    int from, to;
    // Where the result goes as a part; below 0 it is whole.
    int part;
};

// A warp for each task and head of keys. Queries come scaled for powers of 2. `window` is how far a row looks
// back.
//
// A lane's 16 bytes of a query or key are two pairs of columns for each of two products, and its 16 bytes
// of the values two pairs of rows likewise. Neither order of columns nor of positions matters to a sum, as
// long as both sides have the same: so everything comes from memory as it is multiplied, and nothing is
// handed between lanes but what the softmax needs.
//
// With more than 64 floats to a head two blocks to a processor of the GPU are enough: then there are registers for
// all loads of a block of keys or values to be under way at once, which three blocks of a load or two are not worth.
extern "C" __global__ void __launch_bounds__(128, HEAD_DIM <= 64 ? 3 : 2)
    attend(const Half *queries, const Half *keys, const Half *values, const int *tables, const Task *tasks,
           int count, Half *out, float *parts, float *part_sums, int kv_heads, int window) {
    const int chunks = HEAD_PAD / 32, strips = (HEAD_DIM + 7) / 8;
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int index = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (count <= index) return;
    Task task = tasks[index];
    if (task.rows == 0) return;
    int head = blockIdx.y, heads = kv_heads * GROUP;
    unsigned query[2 * chunks][4];
    // Of the rows g and g + 8: the last position that they see, and the first.
    int last[2], start[2];
    for (int side = 0; side < 2; side++) {
        int row = task.first + g + 8 * side;
        bool is_there = row < task.rows;
        int token = (is_there ? row : task.first) / GROUP;
        last[side] = task.position + token;
        start[side] = last[side] < window ? 0 : last[side] + 1 - window;
        const Half *from = queries + ((size_t)(task.row + token) * heads + head * GROUP + row % GROUP) * HEAD_PAD;
        for (int chunk = 0; chunk < chunks; chunk++) {
            uint4 four = make_uint4(0, 0, 0, 0);
            if (is_there) four = load8(from + chunk * 32 + t * 8);
            query[2 * chunk][side] = four.x, query[2 * chunk][side + 2] = four.y;
            query[2 * chunk + 1][side] = four.z, query[2 * chunk + 1][side + 2] = four.w;
        }
    }
    // Positions that all rows see.
    int tile_end = task.first + TILE < task.rows ? task.first + TILE : task.rows;
    int lowest_last = task.position + task.first / GROUP;
    int highest_last = task.position + (tile_end - 1) / GROUP;
    int highest_start = highest_last < window ? 0 : highest_last + 1 - window;
    highest_start = highest_start < task.from ? task.from : highest_start;
    float sum[strips][4], largest[2] = {-INFINITE, -INFINITE}, total[2] = {0.0f, 0.0f};
    for (int strip = 0; strip < strips; strip++)
        for (int i = 0; i < 4; i++) sum[strip][i] = 0.0f;
    for (int block = task.from / BLOCK; block * BLOCK < task.to; block++) {
        size_t at = ((size_t)tables[task.table + block] * kv_heads + head) * BLOCK * HEAD_PAD;
        float score[4][4];
        for (int i = 0; i < 4; i++) {
            score[i][0] = score[i][1] = score[i][2] = score[i][3] = 0.0f;
            const Half *key = keys + at + (g / 2 * 8 + 2 * i + g % 2) * HEAD_PAD + t * 8;
            for (int chunk = 0; chunk < chunks; chunk++) {
                uint4 four = load8(key + chunk * 32);
                multiply(score[i], query[2 * chunk], four.x, four.y);
                multiply(score[i], query[2 * chunk + 1], four.z, four.w);
            }
        }
        // Column 2 * t + e of product i is position t * 8 + 2 * i + e.
        int first = block * BLOCK + t * 8;
        bool is_whole = block * BLOCK + BLOCK <= task.to && block * BLOCK + BLOCK - 1 <= lowest_last &&
                        highest_start <= block * BLOCK;
        if (!is_whole)
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 4; j++) {
                    int position = first + 2 * i + j % 2, side = j / 2;
                    bool is_seen = start[side] <= position && position <= last[side] && task.from <= position &&
                                   position < task.to;
                    if (!is_seen) score[i][j] = -INFINITE;
                }
        for (int side = 0; side < 2; side++) {
            float most = largest[side];
            for (int i = 0; i < 4; i++) most = fmaxf(most, fmaxf(score[i][2 * side], score[i][2 * side + 1]));
            most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 1));
            most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 2));
            // A row that has seen nothing yet has nothing to be scaled.
            float base = most == -INFINITE ? 0.0f : most;
            float change = exp2f(largest[side] - base);
            largest[side] = most;
            total[side] *= change;
            for (int i = 0; i < 4; i++)
                for (int j = 2 * side; j < 2 * side + 2; j++) {
                    score[i][j] = exp2f(score[i][j] - base);
                    total[side] += score[i][j];
                }
            for (int strip = 0; strip < strips; strip++) sum[strip][2 * side] *= change, sum[strip][2 * side + 1] *= change;
        }
        unsigned share[2][4];
        for (int i = 0; i < 2; i++) {
            share[i][0] = pack(score[2 * i][0], score[2 * i][1]);
            share[i][1] = pack(score[2 * i][2], score[2 * i][3]);
            share[i][2] = pack(score[2 * i + 1][0], score[2 * i + 1][1]);
            share[i][3] = pack(score[2 * i + 1][2], score[2 * i + 1][3]);
        }
        // What lies behind the last position may be no number, and no number times 0 is none.
        unsigned kept[4];
        for (int i = 0; i < 4; i++)
            kept[i] = task.to <= first + 2 * i ? 0 : task.to == first + 2 * i + 1 ? 0xffff : 0xffffffff;
        for (int strip = 0; strip < strips; strip++) {
            uint4 four = load8(values + at + (strip * 8 + g) * BLOCK + t * 8);
            multiply(sum[strip], share[0], four.x & kept[0], four.y & kept[1]);
            multiply(sum[strip], share[1], four.z & kept[2], four.w & kept[3]);
        }
    }
    for (int side = 0; side < 2; side++) {
        total[side] += __shfl_xor_sync(ALL_LANES, total[side], 1);
        total[side] += __shfl_xor_sync(ALL_LANES, total[side], 2);
        int within = g + 8 * side, row = task.first + within;
        if (task.rows <= row) continue;
        if (task.part < 0) {
            size_t to = ((size_t)(task.row + row / GROUP) * heads + head * GROUP + row % GROUP) * HEAD_DIM;
            for (int strip = 0; strip < strips; strip++) {
                int column = strip * 8 + t * 2;
                if (HEAD_DIM <= column) continue;
                float a = sum[strip][2 * side] / total[side], b = sum[strip][2 * side + 1] / total[side];
                *(unsigned *)(out + to + column) = pack(a, b);
            }
        } else if (within < PART) {
            size_t to = ((size_t)task.part * kv_heads + head) * PART + within;
            for (int strip = 0; strip < strips; strip++) {
                parts[to * HEAD_PAD + strip * 8 + t * 2] = sum[strip][2 * side];
                parts[to * HEAD_PAD + strip * 8 + t * 2 + 1] = sum[strip][2 * side + 1];
            }
            if (t == 0) part_sums[2 * to] = largest[side], part_sums[2 * to + 1] = total[side];
        }
    }
}

// A token whose context was split.
struct Merge {
    // Its row in the batch, its first part, and how many there are; with none there is nothing to do.
    int row, part, count;
};

// A block for each token and query head: makes one result of its parts.
extern "C" __global__ void merge(const Merge *merges, const float *parts, const float *part_sums, Half *out,
                                 int kv_heads) {
    Merge merge = merges[blockIdx.x];
    if (merge.count == 0) return;
    int query_head = blockIdx.y, head = query_head / GROUP, within = query_head % GROUP;
    float largest = -INFINITE;
    for (int i = 0; i < merge.count; i++) {
        size_t at = ((size_t)(merge.part + i) * kv_heads + head) * PART + within;
        largest = fmaxf(largest, part_sums[2 * at]);
    }
    for (int column = threadIdx.x; column < HEAD_DIM; column += blockDim.x) {
        float sum = 0.0f, total = 0.0f;
        for (int i = 0; i < merge.count; i++) {
            size_t at = ((size_t)(merge.part + i) * kv_heads + head) * PART + within;
            float weight = exp2f(part_sums[2 * at] - largest);
            sum += weight * parts[at * HEAD_PAD + column];
            total += weight * part_sums[2 * at + 1];
        }
        out[((size_t)merge.row * kv_heads * GROUP + query_head) * HEAD_DIM + column] = narrow(sum / total);
    }
}
