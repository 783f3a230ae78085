// Streams, events, copies and launches of the emulation. By default work runs at once. Lazily (EMU_LAZY=1) it waits until
// the host waits for it, and other streams move only as far as an event forces them: a missing event, or a host buffer
// reused too early, then gives a wrong result instead of passing by luck.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <random>
#include <stdexcept>
#include <vector>

#include "core.hpp"
#include "support/seed.hpp"

struct EmuEvent {
    uint64_t recorded = 0, passed = 0;
};
struct EmuGraph {
    std::vector<std::function<void()>> work;
};
struct EmuGraphExec {
    std::vector<std::function<void()>> work;
};
struct EmuStream {
    struct Item {
        std::function<void()> work;
        EmuEvent *records = nullptr, *waits_for = nullptr;
        uint64_t ticket = 0;
    };
    std::deque<Item> queue;
    std::unique_ptr<EmuGraph> captured;  // while it captures
    bool is_spoilt = false;
};

namespace emu {
namespace {
struct Streams {
    bool lazy = std::getenv("EMU_LAZY") != nullptr;
    EmuStream default_stream;
    std::vector<EmuStream *> all{&default_stream};
    std::map<const void *, int> shared_limits;
    std::mt19937_64 random{pgtrain::test::seed()};
    uint64_t launches = 0, graph_launches = 0;
    size_t graphs = 0;  // of either kind
};
Streams g;
constexpr size_t kDefaultShared = size_t(48) << 10;
constexpr int kMostShared = 99 << 10;  // of the least card that is supported (8.6, 8.9, 12.0); A100 has 163, H100 227

EmuStream &stream_of(cudaStream_t s) { return s ? *s : g.default_stream; }

bool advance(EmuStream &s) {
    if (s.queue.empty()) return false;
    const EmuStream::Item &next = s.queue.front();
    if (next.waits_for && next.waits_for->passed < next.ticket) return false;
    EmuStream::Item item = std::move(s.queue.front());
    s.queue.pop_front();  // first, so that a launch that throws is not run again
    if (item.work) item.work();
    if (item.records) item.records->passed = std::max(item.records->passed, item.ticket);
    return true;
}
template <class Done> void run_until(EmuStream *preferred, Done done) {
    while (!done()) {
        if (preferred && advance(*preferred)) continue;
        std::vector<EmuStream *> others(g.all);
        std::shuffle(others.begin(), others.end(), g.random);
        if (std::none_of(others.begin(), others.end(), [](EmuStream *s) { return advance(*s); })) {
            std::fprintf(stderr, "emulator: streams wait for each other\n");
            std::abort();
        }
    }
}
void copy_now(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    DeviceScope scope;
    if (kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice) note_access(from, bytes, false);
    if (kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice) note_access(to, bytes, true);
    std::memcpy(to, from, bytes);
}
}  // namespace

bool refused_by_capture() {
    bool refused = false;
    for (EmuStream *s : g.all)
        if (s->captured) refused = s->is_spoilt = true;
    return refused;
}
void queue(cudaStream_t s, std::function<void()> work) {
    if (EmuStream &stream = stream_of(s); stream.captured) return stream.captured->work.push_back(std::move(work));
    if (!g.lazy) return work();
    stream_of(s).queue.push_back({std::move(work)});
}
void synchronize_all() {
    run_until(nullptr, [] { return std::all_of(g.all.begin(), g.all.end(), [](EmuStream *s) { return s->queue.empty(); }); });
}
cudaError_t set_shared_limit(const void *kernel, int bytes) {
    if (bytes < 0 || bytes > kMostShared) return cudaErrorInvalidValue;
    g.shared_limits[kernel] = bytes;
    return cudaSuccess;
}
void submit(std::unique_ptr<Kernel> kernel, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream) {
    const size_t threads = size_t(block.x) * block.y * block.z;
    const auto raised = g.shared_limits.find(kernel->function);
    const size_t most = raised == g.shared_limits.end() ? kDefaultShared : size_t(raised->second);
    if (!threads || threads > kMaxThreads || block.z > 64 || !grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu || grid.y > 65535 ||
        grid.z > 65535 || shared_bytes > most)
        throw std::runtime_error(text("launch refused: grid (%u,%u,%u) block (%u,%u,%u) shared memory %zu of %zu bytes", grid.x, grid.y, grid.z,
                                      block.x, block.y, block.z, shared_bytes, most));
    std::shared_ptr<Kernel> shared(std::move(kernel));
    queue(stream, [=] {
        DeviceScope scope;
        if (emu_check_launch) emu_check_launch();
        run_grid(*shared, grid, block, shared_bytes, ++g.launches);
    });
}
}  // namespace emu

using emu::g;
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
    cudaError_t injected;
    if (emu::take_failure("cudaStreamCreateWithFlags", &injected)) return injected;
    g.all.push_back(*stream = new EmuStream);
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    cudaStreamSynchronize(stream);
    g.all.erase(std::find(g.all.begin(), g.all.end(), stream));
    delete stream;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    cudaError_t injected;
    if (emu::take_failure("cudaStreamSynchronize", &injected)) return injected;
    if (emu::stream_of(stream).captured && emu::refused_by_capture()) return cudaErrorStreamCaptureUnsupported;
    EmuStream &s = emu::stream_of(stream);
    emu::run_until(&s, [&] { return s.queue.empty(); });
    return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
    if (emu::refused_by_capture()) return cudaErrorStreamCaptureUnsupported;
    emu::synchronize_all();
    return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) {
    *event = new EmuEvent;
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    cudaEventSynchronize(event);
    delete event;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    if (emu::refused_by_capture()) return cudaErrorStreamCaptureUnsupported;
    const uint64_t ticket = ++event->recorded;
    if (g.lazy) emu::stream_of(stream).queue.push_back({nullptr, event, nullptr, ticket});
    else event->passed = ticket;
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    if (emu::refused_by_capture()) return cudaErrorStreamCaptureUnsupported;
    const uint64_t ticket = event->recorded;
    emu::run_until(nullptr, [=] { return event->passed >= ticket; });
    return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    if (emu::refused_by_capture()) return cudaErrorStreamCaptureUnsupported;
    if (g.lazy) emu::stream_of(stream).queue.push_back({nullptr, nullptr, event, event->recorded});
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    cudaError_t injected;
    if (emu::take_failure("cudaMemcpyAsync", &injected)) return injected;
    if (kind != cudaMemcpyDeviceToDevice && emu::refused_by_capture()) return cudaErrorStreamCaptureUnsupported;
    emu::queue(stream, [=] { emu::copy_now(to, from, bytes, kind); });
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream) {
    cudaError_t injected;
    if (emu::take_failure("cudaMemsetAsync", &injected)) return injected;
    emu::queue(stream, [=] {
        emu::DeviceScope scope;
        emu::note_access(p, bytes, true);
        std::memset(p, value, bytes);
    });
    return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    cudaError_t injected;
    if (emu::take_failure("cudaStreamBeginCapture", &injected)) return injected;
    if (!stream || stream->captured) return cudaErrorIllegalState;
    stream->captured = std::make_unique<EmuGraph>();
    stream->is_spoilt = false;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    *graph = nullptr;
    if (!stream || !stream->captured) return cudaErrorIllegalState;
    const std::unique_ptr<EmuGraph> captured = std::move(stream->captured);
    if (stream->is_spoilt) return cudaErrorStreamCaptureInvalidated;
    *graph = new EmuGraph(*captured);
    g.graphs++;
    return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status) {
    const EmuStream &s = emu::stream_of(stream);
    *status = !s.captured ? cudaStreamCaptureStatusNone : s.is_spoilt ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *made, cudaGraph_t graph, unsigned long long) {
    cudaError_t injected;
    if (emu::take_failure("cudaGraphInstantiateWithFlags", &injected)) return injected;
    *made = new EmuGraphExec{graph->work};
    g.graphs++;
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
    cudaError_t injected;
    if (emu::take_failure("cudaGraphLaunch", &injected)) return injected;
    g.graph_launches++;
    for (const std::function<void()> &work : graph->work) emu::queue(stream, work);
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    g.graphs--;
    delete graph;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
    g.graphs--;
    delete graph;
    return cudaSuccess;
}
void emu_control::set_lazy(bool lazy) {
    emu::synchronize_all();
    g.lazy = lazy;
}
uint64_t emu_control::launches() { return g.launches; }
uint64_t emu_control::graph_launches() { return g.graph_launches; }
size_t emu_control::live_graphs() { return g.graphs; }
