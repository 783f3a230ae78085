// Operations of fine-tuning whose results have one right value for each bit: dropout and NF4; and moments of AdamW that are
// rounded when they are stored, to bf16 or to 8 bits. NF4 and the dynamic map are held against bitsandbytes' own results too (test/fixtures/make_nf4_reference.py).
#include <cstring>

#include "../bf16_errors.hpp"
#include "../reference_llama.hpp"
#include "cases.hpp"
#include "engine/backend/dynamic_map.hpp"

namespace pgtrain::test {
namespace {
using namespace engine::backend;
using engine::core::to_bf16;
using engine::core::to_float;

float stored(DType type, double value) { return type == DType::Bf16 ? to_float(to_bf16(float(value))) : float(value); }

void check_dropout(Backend& backend, DType type, int count, float rate) {
  const auto x = random_values(type, count), old = random_values(type, count);
  const std::uint64_t seed = random_source()(), stream = random_source()();
  const reference::Vector factors = reference::dropout_factors(count, rate, seed, stream);
  Buffer bx(backend, type, x), y(backend, type, count), added(backend, type, old);
  backend.dropout({type, y.get(), bx.get(), count, rate, seed, stream, false});
  backend.dropout({type, added.get(), bx.get(), count, rate, seed, stream, true});
  backend.dropout({type, bx.get(), bx.get(), count, rate, seed, stream, false});
  const auto got = y.read(), over = bx.read(), sum = added.read();
  const Buffer numbers(backend, words_of({.seed = 7, .stream = std::uint64_t{1} << 40}));
  bx.write(x);
  backend.dropout({.type = type, .y = y.get(), .x = bx.get(), .count = count, .rate = rate, .seed = seed - 7, .stream = stream - (std::uint64_t{1} << 40), .run = run_numbers(numbers)});
  expect("dropped with the run's numbers", y.read() == got);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const float kept = x[i] * (factors[i] > 0 ? dropout_factor(rate) : 0.0f);
    const std::string which = " element " + std::to_string(i) + " of " + std::to_string(count) + ", seed " + std::to_string(seed) + ", stream " + std::to_string(stream);
    expect("dropped" + which, got[i] == stored(type, kept));
    expect("dropped in place" + which, over[i] == got[i]);
    expect("added" + which, sum[i] == stored(type, double(kept) + old[i]));
  }
}
// As many are kept as should be, other streams keep others, and equal calls keep the same.
void check_dropout_rate(Backend& backend) {
  const int count = 20000;
  Buffer ones(backend, DType::F32, std::vector<float>(count, 1.0f)), y(backend, DType::F32, count);
  const std::uint64_t seed = random_source()();
  std::vector<std::vector<float>> drawn;
  for (const std::uint64_t stream : {5u, 6u, 5u}) {
    backend.dropout({DType::F32, y.get(), ones.get(), count, 0.3f, seed, stream, false});
    drawn.push_back(y.read());
    const auto dropped = std::count(drawn.back().begin(), drawn.back().end(), 0.0f);
    expect(std::to_string(dropped) + " of 20000 dropped at rate 0.3", std::abs(double(dropped) - 6000) < 6 * std::sqrt(20000 * 0.21));
  }
  expect("two streams drop the same", drawn[0] != drawn[1]);
  expect("equal calls drop others", drawn[0] == drawn[2]);
}

// Bytes on the device.
class Bytes {
 public:
  Bytes(Backend& backend, const std::vector<std::uint8_t>& bytes) : backend_(backend), memory_(backend.allocate(bytes.size())) { backend.upload(memory_, bytes.data(), bytes.size()); }
  ~Bytes() { backend_.release(memory_); }
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;
  std::uint8_t* get() const { return static_cast<std::uint8_t*>(memory_); }
  std::vector<std::uint8_t> read(std::int64_t count) const {
    std::vector<std::uint8_t> bytes(std::size_t(count), std::uint8_t{0});
    backend_.download(bytes.data(), memory_, bytes.size());
    return bytes;
  }

 private:
  Backend& backend_;
  void* memory_;
};
std::vector<std::uint8_t> random_bytes(std::int64_t count) {
  std::vector<std::uint8_t> bytes;
  for (std::int64_t i = 0; i < count; ++i) bytes.push_back(std::uint8_t(random_source()()));
  return bytes;
}

struct Nf4Scales {
  std::vector<float> plain;  // or empty: then the rest
  std::vector<std::uint8_t> scales8;
  std::vector<float> nested, book;
  float offset = 0;
};
std::vector<float> dequantize(Backend& backend, DType type, std::int64_t count, const std::vector<std::uint8_t>& codes, const Nf4Scales& s) {
  const std::vector<float> none(1);
  Bytes bcodes(backend, codes), scales8(backend, s.plain.empty() ? s.scales8 : std::vector<std::uint8_t>(1));
  Buffer plain(backend, DType::F32, s.plain.empty() ? none : s.plain), nested(backend, DType::F32, s.plain.empty() ? s.nested : none),
      book(backend, DType::F32, s.plain.empty() ? s.book : none), out(backend, type, count);
  Nf4Dequantize call;
  call.type = type, call.out = out.get(), call.codes = bcodes.get(), call.count = count;
  if (s.plain.empty()) call.absmax8 = scales8.get(), call.nested_absmax = nested.floats(), call.code_book = book.floats(), call.nested_offset = s.offset;
  else call.absmax = plain.floats();
  backend.nf4_dequantize(call);
  return out.read();
}
void check_nf4(Backend& backend, DType type, std::int64_t count) {
  const std::int64_t blocks = (count + 63) / 64;
  const auto codes = random_bytes((count + 1) / 2);
  Nf4Scales plain, nested;
  for (std::int64_t b = 0; b < blocks; ++b) plain.plain.push_back(std::abs(random_values(DType::F32, 1)[0]));
  nested.scales8 = random_bytes(blocks), nested.nested = random_values(DType::F32, (blocks + 255) / 256), nested.book = random_values(DType::F32, 256), nested.offset = 0.07f;
  for (const Nf4Scales* s : {&plain, &nested}) {
    const auto got = dequantize(backend, type, count, codes, *s);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::size_t b = std::size_t(i / 64);
      const float scale = s == &plain ? plain.plain[b] : reference::nf4_nested_scale(nested.book[nested.scales8[b]], nested.nested[b / 256], nested.offset);
      expect("element " + std::to_string(i) + " of " + std::to_string(count), got[std::size_t(i)] == stored(type, reference::nf4(codes.data(), scale, i)));
    }
  }
}

constexpr std::uint32_t kBitsandbytes[] = {
#define PGTRAIN_NF4_BOOK
#include "../../fixtures/nf4_reference.inc"
#undef PGTRAIN_NF4_BOOK
};
struct StoredHash {
  const char* kind;
  std::uint64_t hash;
};
constexpr StoredHash kHashes[] = {
#include "../../fixtures/nf4_reference.inc"
};
std::uint64_t hash_of(DType type, const std::vector<float>& values) {
  std::uint64_t hash = 0xCBF29CE484222325u;
  for (const float value : values) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof bits);
    for (int shift = type == DType::Bf16 ? 16 : 0; shift < 32; shift += 8) hash = (hash ^ (bits >> shift & 0xFF)) * 0x100000001B3u;
  }
  return hash;
}
void check_nf4_against_bitsandbytes(Backend& backend) {
  constexpr std::int64_t kCount = 64 * 300;
  std::vector<float> numbers(std::size(kBitsandbytes));
  std::memcpy(numbers.data(), kBitsandbytes, sizeof kBitsandbytes);
  std::vector<std::uint8_t> codes;
  for (std::uint64_t i = 0; i < kCount / 2; ++i) codes.push_back(std::uint8_t(fixed_bits(60, i)));
  Nf4Scales plain, nested;
  for (std::uint64_t b = 0; b < kCount / 64; ++b) {
    nested.scales8.push_back(std::uint8_t(fixed_bits(61, b)));
    plain.plain.push_back(float(fixed_bits(62, b) >> 40) / float(1 << 24));
  }
  nested.book.assign(numbers.begin(), numbers.begin() + 256), nested.nested = {numbers[256], numbers[257]}, nested.offset = numbers[258];
  for (const DType type : kTypes)
    for (const bool is_double : {false, true}) {
      const std::string kind = std::string(is_double ? "double " : "plain ") + type_name(type);
      const auto stored_hash = std::find_if(std::begin(kHashes), std::end(kHashes), [&](const StoredHash& h) { return kind == h.kind; });
      expect("nf4_reference.inc has no " + kind, stored_hash != std::end(kHashes));
      expect(kind + ": other bits than bitsandbytes'", hash_of(type, dequantize(backend, type, kCount, codes, is_double ? nested : plain)) == stored_hash->hash);
    }
}

// The moments are rounded once when they are stored; the parameter is made of the unrounded ones.
// One of the two neighbours, and neither too often. `terms`: sums of the sizes of what was added, whose rounding a result near 0 shows.
void expect_rounded_by_chance(const std::string& what, const std::vector<float>& got, const std::vector<double>& want, const std::vector<double>& terms) {
  constexpr double kOfFloat = 0x1p-22, kNearZero = 0x1p-6;
  double sum = 0;
  int count = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double step = std::ldexp(1.0, std::ilogb(want[i]) - 7), off = double(got[i]) - want[i];
    expect(what + ": element " + std::to_string(i) + " is " + std::to_string(off / step) + " steps off", std::abs(off) < 1.01 * step + kOfFloat * terms[i]);
    if (std::abs(want[i]) < kNearZero * terms[i]) continue;
    sum += off / step, ++count;
  }
  if (count > 0) expect(what + ": off by " + std::to_string(sum / count) + " steps on average", std::abs(sum / count) < 6 * 0.42 / std::sqrt(count));
}
void check_narrow_moments(Backend& backend, int count, bool in_halves) {
  const auto p = random_values(DType::F32, count), g = random_values(DType::F32, count), m = random_values(DType::Bf16, count, 0.1f);
  auto v = random_values(DType::Bf16, count, 0.1f);
  for (float& x : v) x = std::abs(x);
  AdamW a;
  a.count = count, a.learning_rate = 3e-2f, a.weight_decay = 0.1f, a.correction1 = 5, a.correction2 = 10, a.moments_type = DType::Bf16;
  std::vector<double> wp, wm, wv, terms;
  for (int i = 0; i < count; ++i) {
    const double beta1 = a.beta1, beta2 = a.beta2;
    wm.push_back(beta1 * m[i] + (1 - beta1) * g[i]);
    terms.push_back(beta1 * std::abs(m[i]) + (1 - beta1) * std::abs(g[i]));
    wv.push_back(beta2 * v[i] + (1 - beta2) * double(g[i]) * g[i]);
    wp.push_back(p[i] - a.learning_rate * (wm[i] * a.correction1 / (std::sqrt(wv[i] * a.correction2) + a.epsilon) + a.weight_decay * double(p[i])));
  }
  Buffer bp(backend, DType::F32, p), bg(backend, DType::F32, g), bm(backend, DType::Bf16, m), bv(backend, DType::Bf16, v);
  HalvesBuffer halves(backend, p);
  a.parameter = in_halves ? nullptr : bp.floats(), a.halves = halves.get(), a.m = bm.get(), a.v = bv.get(), a.gradient = bg.floats();
  a.chance = std::uint32_t(random_below(1 << 30));
  backend.adamw(a);
  expect_close("parameters", in_halves ? halves.read() : bp.read(), wp, count < 16 ? 1e-4 : 2e-6);
  expect_rounded_by_chance("first moments", bm.read(), wm, terms);
  expect_rounded_by_chance("second moments", bv.read(), wv, wv);
}
// An average moves by less than half of bf16's step at a time, and has to arrive all the same.
void check_narrow_moments_move(Backend& backend) {
  constexpr int count = 96, steps = 700;
  Buffer bp(backend, DType::F32, std::vector<float>(count, 0.5f)), bg(backend, DType::F32, std::vector<float>(count, 0.1f));
  Buffer bm(backend, DType::Bf16, std::vector<float>(count, 1.0f)), bv(backend, DType::Bf16, std::vector<float>(count, 1.0f));
  AdamW a;
  a.count = count, a.beta1 = 0.9f, a.beta2 = 0.999f, a.moments_type = DType::Bf16;
  a.parameter = bp.floats(), a.m = bm.get(), a.v = bv.get(), a.gradient = bg.floats();
  double wanted = 1;
  for (int step = 0; step < steps; ++step) {
    a.chance = std::uint32_t(random_below(1 << 30));
    backend.adamw(a);
    wanted = 0.999 * wanted + 0.001 * 0.1 * 0.1;
  }
  double mean = 0;
  for (const float v : bv.read()) mean += double(v) / count;
  expect("the mean of second moments is " + std::to_string(mean) + ", not " + std::to_string(wanted), std::abs(mean - wanted) < 0.025);
}

// The map that the backend's callers upload is the one that bitsandbytes stores codes of.
void check_dynamic_map(Backend&) {
  const auto with_signs = dynamic_map(true), without = dynamic_map(false);
  expect("the dynamic map has other bits than bitsandbytes'", std::memcmp(with_signs.data(), kBitsandbytes, sizeof with_signs) == 0);
  expect("the dynamic map without signs has other bits than bitsandbytes'", std::memcmp(without.data(), kBitsandbytes + 259, sizeof without) == 0);
}

// One stored moment: its block's scale right, and no entry of the book nearer to its share than the one chosen, but for rounding.
void expect_stored(const std::string& what, const std::vector<double>& values, const reference::Moments8& stored) {
  reference::Moments8 want = stored;
  want.assign(values);
  // Of a block of few elements the largest may itself be a difference of two numbers about 1, with the rounding of those.
  for (std::size_t b = 0; b < stored.scales.size(); ++b)
    expect(what + "'s scale of block " + std::to_string(b), std::abs(stored.scales[b] - want.scales[b]) <= 1e-6 * want.scales[b] + 1e-7);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double scale = want.scales[i / 256], share = scale > 0 ? values[i] / scale : 0;
    const double got = std::abs(stored.book[stored.codes[i]] - share), best = std::abs(stored.book[want.codes[i]] - share);
    expect(what + "'s code of element " + std::to_string(i) + " is " + std::to_string(stored.codes[i]) + ", not " + std::to_string(want.codes[i]), got <= best + 1e-6);
  }
}
void check_adamw_8bit(Backend& backend, int count, bool in_halves, float clip) {
  const int blocks = (count + 255) / 256;
  const auto p = random_values(DType::F32, count);
  auto g = random_values(DType::F32, count);
  const auto with_signs = dynamic_map(true), without = dynamic_map(false);
  reference::Moments8 m{random_bytes(count), reference::Vector(std::size_t(blocks)), {with_signs.begin(), with_signs.end()}};
  reference::Moments8 v{random_bytes(count), reference::Vector(std::size_t(blocks)), {without.begin(), without.end()}};
  for (int b = 0; b < blocks; ++b) m.scales[std::size_t(b)] = float(0.1 + 0.01 * random_below(50)), v.scales[std::size_t(b)] = float(0.1 + 0.01 * random_below(50));
  if (blocks > 2) {  // a block that has been still since the first step
    m.scales[1] = v.scales[1] = 0;
    std::fill(g.begin() + 256, g.begin() + 512, 0.0f);
  }
  double squares = 0;
  for (float x : g) squares += double(x) * x;
  const float scale = 0.5f;
  const double norm = std::sqrt(squares) * scale, factor = scale * (clip > 0 && norm > clip ? clip / norm : 1);
  AdamW8bit a;
  a.count = count, a.learning_rate = 3e-2f, a.weight_decay = 0.1f, a.correction1 = 5, a.correction2 = 10, a.gradient_scale = scale, a.clip = clip;
  reference::Vector wp, wm = m.values(), wv = v.values();
  for (std::size_t i = 0; i < p.size(); ++i) {
    const double gradient = g[i] * factor, beta1 = a.beta1, beta2 = a.beta2;
    wm[i] = beta1 * wm[i] + (1 - beta1) * gradient, wv[i] = beta2 * wv[i] + (1 - beta2) * gradient * gradient;
    wp.push_back(p[i] - a.learning_rate * (wm[i] * a.correction1 / (std::sqrt(wv[i] * a.correction2) + a.epsilon) + a.weight_decay * double(p[i])));
  }
  const auto floats = [](const reference::Vector& x) { return std::vector<float>(x.begin(), x.end()); };
  Buffer bp(backend, DType::F32, p), bg(backend, DType::F32, g), squared(backend, DType::F32, 1);
  HalvesBuffer halves(backend, p);
  Buffer m_scale(backend, DType::F32, floats(m.scales)), v_scale(backend, DType::F32, floats(v.scales)), m_book(backend, DType::F32, floats(m.book)), v_book(backend, DType::F32, floats(v.book));
  const auto whole = [&](std::vector<std::uint8_t> codes) {
    codes.resize(std::size_t(blocks) * 256);
    return codes;
  };
  Bytes m_codes(backend, whole(m.codes)), v_codes(backend, whole(v.codes));
  backend.sum_of_squares(squared.floats(), bg.floats(), count, false);
  a.parameter = in_halves ? nullptr : bp.floats(), a.halves = halves.get(), a.gradient = bg.floats(), a.m = m_codes.get(), a.v = v_codes.get(), a.m_scale = m_scale.floats(), a.v_scale = v_scale.floats();
  a.m_book = m_book.floats(), a.v_book = v_book.floats(), a.squared_norm = clip > 0 ? squared.floats() : nullptr;
  backend.adamw_8bit(a);
  expect_close("parameters", in_halves ? halves.read() : bp.read(), wp, count < 16 ? 1e-4 : 2e-6);
  m.codes = m_codes.read(count), v.codes = v_codes.read(count), m.scales = widen(m_scale.read()), v.scales = widen(v_scale.read());
  expect_stored("m", wm, m);
  expect_stored("v", wv, v);
  if (in_halves) halves.expect_rounded();
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (DType type : kTypes) {
    const std::string t = " " + type_name(type);
    all.push_back({"dropout" + t, [=](Backend& b) {
                     check_dropout(b, type, 1, 0.5f);
                     check_dropout(b, type, 63, 0.1f);
                     check_dropout(b, type, 1029, 0.9f);
                     check_dropout(b, type, 9001, 0.05f);
                     check_dropout(b, type, 130, 0.0f);
                   }});
    all.push_back({"nf4" + t, [=](Backend& b) {
                     check_nf4(b, type, 1);
                     check_nf4(b, type, 64);
                     check_nf4(b, type, 131);
                     check_nf4(b, type, 64 * 260 + 40);
                   }});
  }
  all.push_back({"dropout rate and streams", check_dropout_rate});
  all.push_back({"nf4 beside bitsandbytes", check_nf4_against_bitsandbytes});
  all.push_back({"dynamic map beside bitsandbytes", check_dynamic_map});
  all.push_back({"adamw with 8-bit moments", [](Backend& b) {
                   check_adamw_8bit(b, 1, false, 0);
                   check_adamw_8bit(b, 517, true, 0);
                   check_adamw_8bit(b, 1024, false, 1.0f);
                   check_adamw_8bit(b, 9001, true, 1.0f);
                 }});
  all.push_back({"adamw with bf16 moments", [](Backend& b) { check_narrow_moments(b, 1, true), check_narrow_moments(b, 517, false), check_narrow_moments(b, 9001, true), check_narrow_moments_move(b); }});
  return all;
}
const AddCases added(cases());
}  // namespace
}  // namespace pgtrain::test
