// The CPU's kernels for x86-64-v4: the sources in this folder with vectors of 64 bytes. CMake gives the instruction set.
#define PGTRAIN_ISA isa_v4
#define PGTRAIN_ISA_NAME "x86-64-v4"
#define PGTRAIN_VECTOR_BYTES 64
#define PGTRAIN_ISA_TABLE kernels_v4
#include "engine/backend/cpu/kernels/all.inl"
