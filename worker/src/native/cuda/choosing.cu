// Choosing the next token. Stands behind kernels.cu, whose first part it uses.
//
// Probabilities are whole numbers, 2^40 for the best token, so that sums are the same in any order. Tokens
// rank by logit, and among equal ones by number.

// How a row's token is chosen.
struct Choice {
    // What logits are divided by; 0 takes the best.
    float temperature;
    // The share of the probability, and the least share of the best token's, that are drawn from.
    float top_p, min_p;
    // How many of the best are drawn from; 0 is all.
    int top_k;
    // The draw: 64 bits behind the point, of which 53 count.
    Mass draw;
    // Where the token goes, and where the one is that only the GPU knows to have been seen; below 0 there is none.
    int place, last;
    // What positive logits of tokens seen before are divided by, negative ones multiplied; what is taken off a
    // logit for each time that its token was generated, and what for all times together.
    float repetition, frequency, presence;
    // Where the row's lists begin, in words from the first choice on, and how long they are: biases, with a token and
    // a number each, tokens of the prompt, and tokens of the answer. Of these each has a token, with a sign where
    // it is in the prompt, too, and how often it was generated. In each list a token is there once at most.
    int lists, biases, prompt, answer, unused;
};

__device__ __forceinline__ void repeat(float *logit, float repetition) {
    *logit = 0.0f < *logit ? *logit / repetition : *logit * repetition;
}

// Rounded as on the host, after each operation.
__device__ __forceinline__ void take_off(float *logit, const Choice &choice, int count) {
    *logit = __fsub_rn(*logit, __fadd_rn(__fmul_rn(choice.frequency, (float)count), choice.presence));
}

// Does to a row's logits what penalties and biases do.
__device__ void change(float *logits, const Choice &choice, const int *words, const int *tokens, int count) {
    __shared__ int was_in_prompt, was_in_answer;
    int last = choice.last < 0 ? -1 : tokens[choice.last];
    if (last < 0 && choice.biases + choice.prompt + choice.answer == 0) return;
    const int *biases = words + choice.lists, *prompt = biases + 2 * choice.biases, *answer = prompt + choice.prompt;
    if (threadIdx.x == 0) was_in_prompt = was_in_answer = 0;
    for (int i = threadIdx.x; i < choice.biases; i += blockDim.x) {
        unsigned token = biases[2 * i];
        if (token < (unsigned)count) logits[token] += __int_as_float(biases[2 * i + 1]);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < choice.prompt; i += blockDim.x) {
        repeat(logits + prompt[i], choice.repetition);
        if (prompt[i] == last) was_in_prompt = 1;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < choice.answer; i += blockDim.x) {
        int token = answer[2 * i] & 0x7fffffff;
        if (0 <= answer[2 * i]) repeat(logits + token, choice.repetition);
        take_off(logits + token, choice, answer[2 * i + 1] + (token == last));
        if (token == last) was_in_answer = 1;
    }
    __syncthreads();
    if (threadIdx.x == 0 && 0 <= last && !was_in_answer) {
        if (!was_in_prompt) repeat(logits + last, choice.repetition);
        take_off(logits + last, choice, 1);
    }
    __syncthreads();
}

struct Ranking {
    const float *logits;
    int count;
    float largest, temperature, min_p;

    // Bits that are in the order of the logits. Those that are no finite numbers don't count.
    __device__ unsigned key(int token) const {
        unsigned bits = __float_as_uint(logits[token]);
        if ((bits & 0x7f800000u) == 0x7f800000u) return 0;
        return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    }

    __device__ float weight(float logit) const { return expf((logit - largest) / temperature); }

    __device__ Mass mass_of(float logit) const { return (Mass)(weight(logit) * 1099511627776.0f); }

    __device__ Mass mass_of_key(unsigned key) const {
        return key == 0 ? 0 : mass_of(__uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key));
    }

    // A token's mass; 0 if it is no number, or under the least.
    __device__ Mass mass(int token) const {
        return key(token) == 0 || weight(logits[token]) < min_p ? 0 : mass_of(logits[token]);
    }
};

// A place in the ranking: a logit, and how much comes before the first token that has it.
struct Place {
    unsigned key;
    Mass mass_before;
    unsigned tokens_before;
};

// Masses and tokens by digit, as they are added up. The first digits of all logits are about four, so that
// hundreds of threads add to the same few words at once. What a processor of the GPU adds at a stroke is a word
// of 32 bits, so a mass is added in limbs of 14 bits; and each digit has several sums, one for every so many
// lanes. Up to 2^20 tokens, which is what the host sees to, no sum runs over.
struct Tally {
    static const int limbs = 3, bits = 14, lanes = 4;
    unsigned masses[limbs][256][lanes], counts[256][lanes];

    __device__ void clear() {
        for (int i = threadIdx.x; i < 256 * lanes; i += blockDim.x) {
            for (int limb = 0; limb < limbs; limb++) (&masses[limb][0][0])[i] = 0;
            (&counts[0][0])[i] = 0;
        }
    }

    __device__ void add(unsigned digit, Mass mass) {
        int lane = threadIdx.x % lanes;
        atomicAdd(&counts[digit][lane], 1u);
        // The last limb is what is left of the 41 bits; most tokens have nothing in it.
        for (int limb = 0; limb < limbs && mass != 0; limb++, mass >>= bits) {
            unsigned part = limb < limbs - 1 ? (unsigned)mass & ((1u << bits) - 1) : (unsigned)mass;
            atomicAdd(&masses[limb][digit][lane], part);
        }
    }

    __device__ Mass mass(unsigned digit) const {
        Mass sum = 0;
        for (int limb = 0; limb < limbs; limb++)
            for (int lane = 0; lane < lanes; lane++) sum += (Mass)masses[limb][digit][lane] << (limb * bits);
        return sum;
    }

    __device__ unsigned count(unsigned digit) const {
        unsigned sum = 0;
        for (int lane = 0; lane < lanes; lane++) sum += counts[digit][lane];
        return sum;
    }
};

// Where so much mass, or so many tokens, have been passed. All threads get it; it must be there.
__device__ Place walk(const Ranking &ranking, Mass target, bool by_count) {
    __shared__ Tally tally;
    __shared__ Mass masses[256];
    __shared__ unsigned counts[256];
    __shared__ Place place;
    if (threadIdx.x == 0) place.key = 0, place.mass_before = 0, place.tokens_before = 0;
    for (int shift = 24; 0 <= shift; shift -= 8) {
        tally.clear();
        __syncthreads();
        unsigned prefix = place.key;
        for (int token = threadIdx.x; token < ranking.count; token += blockDim.x) {
            unsigned key = ranking.key(token);
            if (key == 0 || (shift < 24 && key >> (shift + 8) != prefix >> (shift + 8))) continue;
            tally.add(key >> shift & 255, ranking.mass_of(ranking.logits[token]));
        }
        __syncthreads();
        for (int digit = threadIdx.x; digit < 256; digit += blockDim.x)
            masses[digit] = tally.mass(digit), counts[digit] = tally.count(digit);
        __syncthreads();
        if (threadIdx.x == 0)
            for (int digit = 255; 0 <= digit; digit--) {
                Mass passed = by_count ? place.tokens_before + counts[digit] : place.mass_before + masses[digit];
                if (target < passed || digit == 0) {
                    place.key |= (unsigned)digit << shift;
                    break;
                }
                place.mass_before += masses[digit], place.tokens_before += counts[digit];
            }
        __syncthreads();
    }
    Place found = place;
    __syncthreads();
    return found;
}

// The first token, by number, up to which more than `target` has been passed: of the tokens' masses, or of
// the tokens that have `key` where it isn't 0. -1 if there is none.
__device__ int find_token(const Ranking &ranking, Mass target, unsigned key) {
    __shared__ Mass passed_by[32];
    __shared__ int found;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    int stretch = (ranking.count + warps - 1) / warps;
    int begin = warp * stretch, end = begin + stretch < ranking.count ? begin + stretch : ranking.count;
    Mass own = 0;
    for (int token = begin + lane; token < end; token += 32)
        own += key ? (Mass)(ranking.key(token) == key) : ranking.mass(token);
    for (int apart = 16; 0 < apart; apart /= 2) own += __shfl_xor_sync(ALL_LANES, own, apart);
    if (lane == 0) passed_by[warp] = own;
    if (threadIdx.x == 0) found = -1;
    __syncthreads();
    Mass before = 0;
    for (int i = 0; i < warp; i++) before += passed_by[i];
    if (before <= target && target < before + own) {
        for (int at = begin; at < end; at += 32) {
            int token = at + lane;
            Mass here = 0;
            if (token < end) here = key ? (Mass)(ranking.key(token) == key) : ranking.mass(token);
            Mass up_to = here;
            for (int apart = 1; apart < 32; apart *= 2) {
                Mass other = __shfl_up_sync(ALL_LANES, up_to, apart);
                if (apart <= lane) up_to += other;
            }
            if (before + up_to - here <= target && target < before + up_to) found = token;
            before += __shfl_sync(ALL_LANES, up_to, 31);
            if (target < before) break;
        }
    }
    __syncthreads();
    int token = found;
    __syncthreads();
    return token;
}

// The sum of all masses.
__device__ Mass mass_of_all(const Ranking &ranking) {
    __shared__ Mass sums[32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    Mass all = 0;
    for (int token = threadIdx.x; token < ranking.count; token += blockDim.x) all += ranking.mass(token);
    // First among the lanes of each warp, then among the warps.
    for (int round = 0; round < 2; round++) {
        for (int apart = 16; 0 < apart; apart /= 2) all += __shfl_xor_sync(ALL_LANES, all, apart);
        if (round == 1) break;
        if (lane == 0) sums[warp] = all;
        __syncthreads();
        all = lane < warps ? sums[lane] : 0;
    }
    __syncthreads();
    return all;
}

// The first token of those with the largest logit; -1 if none is above minus infinity.
__device__ int best_token(const float *logits, int count) {
    __shared__ float best[32];
    __shared__ int best_at[32];
    float largest = -INFINITE;
    int at = -1;
    for (int token = threadIdx.x; token < count; token += blockDim.x)
        if (largest < logits[token]) largest = logits[token], at = token;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    // First among the lanes of each warp, then among the warps.
    for (int round = 0; round < 2; round++) {
        for (int apart = 16; 0 < apart; apart /= 2) {
            float other = __shfl_xor_sync(ALL_LANES, largest, apart);
            int other_at = __shfl_xor_sync(ALL_LANES, at, apart);
            bool is_better = largest < other || (largest == other && (unsigned)other_at < (unsigned)at);
            if (is_better) largest = other, at = other_at;
        }
        if (round == 1) break;
        if (lane == 0) best[warp] = largest, best_at[warp] = at;
        __syncthreads();
        largest = lane < warps ? best[lane] : -INFINITE;
        at = lane < warps ? best_at[lane] : -1;
    }
    __syncthreads();
    return at;
}

// A block for each row: its next token, or -1 if its logits are no numbers. Three blocks fit onto a processor of the
// GPU, so that a few hundred rows are done at once.
extern "C" __global__ void __launch_bounds__(512, 3)
    choose(float *all_logits, const Choice *choices, int *tokens, int count) {
    float *logits = all_logits + (size_t)blockIdx.x * count;
    change(logits, choices[blockIdx.x], (const int *)choices, tokens, count);
    Choice choice = choices[blockIdx.x];
    int best = best_token(logits, count);
    bool is_finite = 0 <= best && (__float_as_uint(logits[best]) & 0x7f800000u) != 0x7f800000u;
    if (!is_finite || choice.temperature <= 0.0f) {
        if (threadIdx.x == 0) tokens[choice.place] = is_finite ? best : -1;
        return;
    }
    Ranking ranking = {logits, count, logits[best], choice.temperature, choice.min_p};
    bool is_ranked = 0 < choice.top_k || choice.top_p < 1.0f;
    // What is kept: so much of the ranking, from its start.
    Mass kept = mass_of_all(ranking);
    if (is_ranked) {
        Mass least = kept;
        ranking.min_p = 0.0f;
        kept = mass_of_all(ranking);
        if (0 < choice.top_k && choice.top_k < count) {
            Place place = walk(ranking, choice.top_k - 1, true);
            // With fewer numbers than that all are kept.
            Mass of_first = place.mass_before + (choice.top_k - place.tokens_before) * ranking.mass_of_key(place.key);
            if (of_first < kept) kept = of_first;
        }
        if (choice.top_p < 1.0f) {
            double share = choice.top_p < 0.0f ? 0.0 : (double)choice.top_p * (double)kept;
            Mass last = (Mass)share;
            // The last token that is kept begins before the share is reached.
            if ((double)last == share && 0 < last) last--;
            if (kept <= last) last = kept - 1;
            Place place = walk(ranking, last, false);
            Mass each = ranking.mass_of_key(place.key);
            Mass reached = place.mass_before + ((last - place.mass_before) / each + 1) * each;
            if (reached < kept) kept = reached;
        }
        if (least < kept) kept = least;
    }
    Mass target = __umul64hi(kept, choice.draw);
    int token;
    if (is_ranked) {
        Place place = walk(ranking, target, false);
        token = find_token(ranking, (target - place.mass_before) / ranking.mass_of_key(place.key), place.key);
    } else {
        token = find_token(ranking, target, 0);
    }
    if (threadIdx.x == 0) tokens[choice.place] = token < 0 ? best : token;
}
