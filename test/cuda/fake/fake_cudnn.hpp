// What tests set of the stand-in for cuDNN before they use it.
#pragma once
#include <cstddef>

namespace fake_cudnn {
enum class Flaw {
    None,
    Output,      // the forward's result is 2 % too large
    Gradient,    // so is the keys' gradient
    Documents,   // a query sees keys before its first one
    LogSum,      // is not written
    Unrepeated,  // the backward's result depends on how often it ran
    Refused      // no plan is offered
};
extern Flaw flaw;
extern size_t version;
extern size_t extra_workspace;  // what the backward wants besides
size_t live_descriptors();
size_t runs();  // of plans, so far
}  // namespace fake_cudnn
