// A GPU on a processor: carries out what it reads from standard input, and answers on standard output.
//
// Each command is a letter and its numbers, little-endian:
// a  bytes                        allocates, filled with what is no number; answers the address
// w  address, bytes, data         writes
// r  address, bytes               answers the data
// m  weights, input, output, rows, columns, depth, wide
//                                 multiplies rows of `depth` 16-bit numbers with weights of `columns`
//                                 such rows; the output has 32-bit numbers where it is `wide`
// k  name, grid x and y, threads, arguments
//                                 runs a kernel; an argument is a letter and 8 bytes
#include "emulator.h"

#include <map>
#include <string>
#include <sys/mman.h>
#include <type_traits>

#include KERNELS
#include CHOOSING

static void take(void *to, size_t bytes) {
    if (fread(to, 1, bytes, stdin) != bytes) give_up("a command is cut short");
}

template <class T> static T number() {
    T value;
    take(&value, sizeof value);
    return value;
}

// Memory with nothing behind it: who goes beyond the end of it is ended.
static char *allocate(size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), room = (bytes + page - 1) / page * page;
    char *start = (char *)mmap(nullptr, room + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED || mprotect(start + page, room, PROT_READ | PROT_WRITE) != 0) give_up("no memory");
    memset(start + page, 0xff, room);
    return start + page + (room - (bytes + 15) / 16 * 16);
}

static void product(const Half *weights, const Half *input, char *output, unsigned rows, unsigned columns,
                    unsigned depth, bool is_wide) {
    std::vector<float> inputs((size_t)rows * depth), row(depth);
    for (size_t i = 0; i < inputs.size(); i++) inputs[i] = widen(input[i]);
    for (unsigned column = 0; column < columns; column++) {
        for (unsigned k = 0; k < depth; k++) row[k] = widen(weights[(size_t)column * depth + k]);
        for (unsigned r = 0; r < rows; r++) {
            const float *other = &inputs[(size_t)r * depth];
            float sums[16] = {};
            unsigned k = 0;
            for (; k + 16 <= depth; k += 16)
                for (unsigned i = 0; i < 16; i++) sums[i] += row[k + i] * other[k + i];
            float sum = 0;
            for (; k < depth; k++) sum += row[k] * other[k];
            for (float part : sums) sum += part;
            size_t at = (size_t)r * columns + column;
            if (is_wide) ((float *)output)[at] = sum;
            else ((Half *)output)[at] = narrow(sum);
        }
    }
}

struct Argument {
    char kind;
    uint64_t bits;
};

template <class T> static T as(const Argument &argument) {
    if constexpr (std::is_pointer_v<T>) {
        if (argument.kind != 'p') give_up("an argument should be an address");
        return (T)argument.bits;
    } else if constexpr (std::is_same_v<T, float>) {
        if (argument.kind != 'f') give_up("an argument should be a fraction");
        return __uint_as_float((unsigned)argument.bits);
    } else {
        static_assert(std::is_same_v<T, int>, "kernels take addresses, whole numbers and fractions");
        if (argument.kind != 'i') give_up("an argument should be a whole number");
        return (int)argument.bits;
    }
}

using Arguments = std::vector<Argument>;

template <class... T, size_t... I>
static void call(void (*kernel)(T...), const Arguments &arguments, std::index_sequence<I...>) {
    kernel(as<T>(arguments[I])...);
}

template <class... T> static std::function<void(const Arguments &)> entry(void (*kernel)(T...)) {
    return [kernel](const Arguments &arguments) {
        if (arguments.size() != sizeof...(T)) give_up("a kernel gets another number of arguments");
        call(kernel, arguments, std::index_sequence_for<T...>());
    };
}

int main() {
    const std::map<std::string, std::function<void(const Arguments &)>> kernels = {
        {"embed", entry(embed)},
        {"add_and_normalise", entry(add_and_normalise)},
        {"gate", entry(gate)},
        {"find_angles", entry(find_angles)},
        {"turn_and_keep", entry(turn_and_keep)},
        {"attend", entry(attend)},
        {"merge", entry(merge)},
        {"choose", entry(choose)},
    };
    for (int command; (command = getchar()) != EOF;) {
        if (command == 'a') {
            uint64_t address = (uint64_t)allocate(number<uint64_t>());
            fwrite(&address, 1, sizeof address, stdout);
            fflush(stdout);
        } else if (command == 'w') {
            uint64_t address = number<uint64_t>(), bytes = number<uint64_t>();
            take((void *)address, bytes);
        } else if (command == 'r') {
            uint64_t address = number<uint64_t>(), bytes = number<uint64_t>();
            fwrite((const void *)address, 1, bytes, stdout);
            fflush(stdout);
        } else if (command == 'm') {
            uint64_t weights = number<uint64_t>(), input = number<uint64_t>(), output = number<uint64_t>();
            unsigned rows = number<uint32_t>(), columns = number<uint32_t>(), depth = number<uint32_t>();
            product((const Half *)weights, (const Half *)input, (char *)output, rows, columns, depth,
                    number<uint32_t>() != 0);
        } else if (command == 'k') {
            std::string name(number<uint32_t>(), ' ');
            take(&name[0], name.size());
            Dim3 grid = {number<uint32_t>(), 1, 1};
            grid.y = number<uint32_t>();
            unsigned threads = number<uint32_t>();
            Arguments arguments(number<uint32_t>());
            for (Argument &argument : arguments) argument.kind = number<char>(), argument.bits = number<uint64_t>();
            auto found = kernels.find(name);
            if (found == kernels.end()) give_up(("there is no kernel " + name).c_str());
            launch(grid, threads, [&] { found->second(arguments); });
        } else {
            give_up("a command isn't known");
        }
    }
}
