// devices.hpp: `pgtrain-trainer devices`, which the workers ask at their start.
#pragma once

#include <string>

namespace pgtrain::trainer {

/// One JSON object a line: kind (cpu or cuda), selector (what a job calls it), instance_id (stable identity), name,
/// memory_bytes, isa, units, note. The CPU comes last, and its note says why there is no (further) CUDA device.
std::string devices_text();

/// One line for Hello: this machine's processor, without asking a driver.
std::string machine_text();

}  // namespace pgtrain::trainer
