// Attention described to cuDNN: the operations whose pattern its flash attention engines know, in the order that they know. Packed
// documents and windows are one tensor, the first key that each query sees (attention_first.cu): so a row of many documents is one
// sequence with a mask, with no bound on their number and no lengths that the host would have to know.
#include "engine/backend/cuda/cudnn_attention.hpp"

namespace pgtrain::engine::backend::gpu {
std::string describe(const AttentionKey &s) {
    return std::to_string(s.batch) + " x " + std::to_string(s.length) + ", " + std::to_string(s.heads) + "/" + std::to_string(s.kv_heads) + " heads of " +
           std::to_string(s.head_size) + (s.reach != kNoWindow ? ", window " + std::to_string(s.reach) : "") + (s.has_segments ? ", documents" : "");
}

namespace cudnn_attention {
namespace {
using cudnn::Four;
using cudnn::Graph;
using cudnn::kBf16;
using cudnn::Pointwise;
using cudnn::Reduce;
using cudnn::Tensor;

// Sizes and steps of what the graphs are about: q, k and v beside each other in rows of `pitch`.
struct Layout {
    explicit Layout(const AttentionKey &shape) : s(shape) {}
    const AttentionKey &s;
    int64_t width() const { return s.head_size; }
    int64_t pitch() const { return int64_t(s.heads + 2 * s.kv_heads) * width(); }
    Four of_heads(int64_t heads) const { return {s.batch, heads, s.length, width()}; }
    Four turned(int64_t heads) const { return {s.batch, heads, width(), s.length}; }
    Four in_rows(int64_t pitch) const { return {s.length * pitch, width(), pitch, 1}; }
    Four turned_in_rows(int64_t pitch) const { return {s.length * pitch, width(), 1, pitch}; }
    Four scores() const { return {s.batch, s.heads, s.length, s.length}; }
    Four turned_scores() const { return {int64_t(s.heads) * s.length * s.length, int64_t(s.length) * s.length, 1, s.length}; }
    Four a_row() const { return {s.batch, s.heads, s.length, 1}; }

    Tensor projection(Graph &g, int64_t id, int64_t heads) const { return g.given(id, of_heads(heads), in_rows(pitch()), kBf16); }
    Tensor turned_projection(Graph &g, int64_t id) const { return g.given(id, turned(s.kv_heads), turned_in_rows(pitch()), kBf16); }
    Tensor output(Graph &g, int64_t id) const { return g.given(id, of_heads(s.heads), in_rows(int64_t(s.heads) * width()), kBf16); }
    Tensor statistics(Graph &g, int64_t id) const { return g.given(id, a_row(), cudnn::dense(a_row()), cudnn::kFloat); }
};

Tensor masked(Graph &g, const AttentionKey &s, Tensor scores) {
    const Tensor query = g.index(scores, 2), key = g.index(scores, 3);
    scores = g.select(g.is_at_least(query, key), scores, g.scalar(kFuture));
    if (!s.has_first()) return scores;
    const Tensor first = g.given(kFirst, {s.batch, 1, s.length, 1}, {s.length, s.length, 1, 1}, cudnn::kInt32);
    return g.select(g.is_at_least(g.index(scores, 3), first), scores, g.scalar(kPast));
}
// What all heads of a group owe to the keys or values that they share.
void give_back(Graph &g, const Layout &at, const Tensor &turned_scores, const Tensor &x, const Tensor &gradient) {
    if (at.s.heads == at.s.kv_heads) return g.multiply(turned_scores, x, gradient);
    const Tensor a_head = g.between(at.of_heads(at.s.heads), kBf16);
    g.multiply(turned_scores, x, a_head);
    g.reduce(Reduce::Add, a_head, gradient);
}
}  // namespace

std::unique_ptr<Graph> describe_forward(const cudnn::Library &library, const AttentionKey &shape) {
    auto graph = std::make_unique<Graph>(library);
    Graph &g = *graph;
    const Layout at(shape);
    const Tensor q = at.projection(g, kQ, shape.heads), k = at.turned_projection(g, kK), v = at.projection(g, kV, shape.kv_heads);
    const Tensor scale = g.scalar(kScale);
    Tensor scores = g.between(at.scores());
    g.multiply(q, k, scores);
    scores = masked(g, shape, g.pointwise(Pointwise::Multiply, scores, &scale));
    const Tensor top = g.between(at.a_row()), sum = g.between(at.a_row());
    g.reduce(Reduce::Max, scores, top);
    const Tensor weights = g.pointwise(Pointwise::Exp, g.pointwise(Pointwise::Subtract, scores, &top));
    g.reduce(Reduce::Add, weights, sum);
    const Tensor logarithm = g.pointwise(Pointwise::Log, sum);
    g.pointwise(Pointwise::Add, top, &logarithm, at.statistics(g, kLogSum));
    const Tensor shares = g.between(at.scores(), kBf16);
    g.pointwise(Pointwise::Divide, weights, &sum, shares);
    g.multiply(shares, v, at.output(g, kOut));
    return graph;
}

// dq goes straight to its place: so asked, the engine keeps the gradients of all scores in its workspace (quadratic in the length) and
// adds nothing from several blocks, which makes it repeatable.
std::unique_ptr<Graph> describe_backward(const cudnn::Library &library, const AttentionKey &shape) {
    auto graph = std::make_unique<Graph>(library);
    Graph &g = *graph;
    const Layout at(shape);
    const Tensor q = at.projection(g, kQ, shape.heads), k = at.turned_projection(g, kK), v = at.turned_projection(g, kV);
    const Tensor out = at.output(g, kOut), out_gradient = at.output(g, kOutGradient), log_sum = at.statistics(g, kLogSum);
    const Tensor scale = g.scalar(kScale), one = g.scalar(kOne);

    const Tensor both = g.between(at.of_heads(shape.heads), cudnn::kFloat, at.in_rows(int64_t(shape.heads) * shape.head_size));
    g.pointwise(Pointwise::Multiply, out_gradient, &out, both);
    const Tensor dot = g.between(at.a_row()), delta = at.statistics(g, kDelta);
    g.reduce(Reduce::Add, both, dot);
    g.pointwise(Pointwise::Multiply, dot, &one, delta);

    Tensor scores = g.between(at.scores());
    g.multiply(q, k, scores);
    scores = g.pointwise(Pointwise::Multiply, scores, &scale);
    scores = masked(g, shape, g.pointwise(Pointwise::Subtract, scores, &log_sum));
    const Tensor shares = g.pointwise(Pointwise::Exp, scores);
    give_back(g, at, g.reshape(shares, at.scores(), at.turned_scores(), kBf16), out_gradient, at.projection(g, kVGradient, shape.kv_heads));

    Tensor gradient = g.between(at.scores());
    g.multiply(out_gradient, v, gradient);
    gradient = g.pointwise(Pointwise::Multiply, g.pointwise(Pointwise::Subtract, gradient, &delta), &shares);
    gradient = g.pointwise(Pointwise::Multiply, gradient, &scale);
    give_back(g, at, g.reshape(gradient, at.scores(), at.turned_scores(), kBf16), q, at.projection(g, kKGradient, shape.kv_heads));
    g.multiply(gradient, g.reshape(k, at.of_heads(shape.kv_heads), at.in_rows(at.pitch()), kBf16), at.projection(g, kQGradient, shape.heads));
    return graph;
}
}  // namespace cudnn_attention
}  // namespace pgtrain::engine::backend::gpu
