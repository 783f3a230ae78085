// Stream capture: the launches of `calls` become nodes of a graph with their arguments as they were. Memory that the driver takes for an
// instantiated graph is in no plan; the driver does not say it beforehand.
#include "engine/backend/cuda/recording.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "engine/core/error.hpp"

namespace pgtrain::engine::backend::gpu {
namespace {
class GraphRecording final : public Recording {
  public:
    GraphRecording(cudaGraphExec_t graph, cudaStream_t stream, std::function<bool()> holds) : graph_(graph), stream_(stream), holds_(std::move(holds)) {}
    ~GraphRecording() override { cudaGraphExecDestroy(graph_); }
    GraphRecording(const GraphRecording &) = delete;
    GraphRecording &operator=(const GraphRecording &) = delete;
    bool replay() override {
        if (!holds_()) return false;
        check("cudaGraphLaunch", cudaGraphLaunch(graph_, stream_));
        return true;
    }

  private:
    cudaGraphExec_t graph_;
    cudaStream_t stream_;
    std::function<bool()> holds_;
};

struct Captured {
    cudaGraph_t graph = nullptr;
    ~Captured() {
        if (graph) cudaGraphDestroy(graph);
    }
};

void capture(cudaStream_t stream, const std::function<void()> &calls, Captured &captured) {
    // What would wait or allocate on this thread is refused then, other threads may do as they like.
    check("cudaStreamBeginCapture", cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    try {
        calls();
    } catch (...) {
        cudaStreamEndCapture(stream, &captured.graph);
        cudaGetLastError();
        throw;
    }
    check("cudaStreamEndCapture", cudaStreamEndCapture(stream, &captured.graph));
}
}  // namespace

std::unique_ptr<Recording> record(cudaStream_t stream, const std::function<void()> &calls, std::function<bool()> holds) {
    const char *word = std::getenv("PGTRAIN_CUDA_GRAPHS");
    if (word && std::strcmp(word, "off") == 0) return nullptr;
    try {
        Captured captured;
        capture(stream, calls, captured);
        cudaGraphExec_t graph = nullptr;
        check("cudaGraphInstantiateWithFlags", cudaGraphInstantiateWithFlags(&graph, captured.graph, 0));
        return std::make_unique<GraphRecording>(graph, stream, std::move(holds));
    } catch (const core::Error &e) {
        std::fprintf(stderr, "pgtrain: no CUDA graph is made of these calls, they are queued one by one: %s; %s\n", e.message.c_str(), e.detail.c_str());
        return nullptr;
    }
}
bool is_recording(cudaStream_t stream) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    check("cudaStreamIsCapturing", cudaStreamIsCapturing(stream, &status));
    return status != cudaStreamCaptureStatusNone;
}
}  // namespace pgtrain::engine::backend::gpu
