# The CUDA backend's compilers, and the GPUs that it is built for.
#
# ANNEAL_CUDA_ARCHITECTURES chooses those instead of the list below, in CMake's words: "90a-real", "89-real;90-virtual" …
set(ANNEAL_CUDA_ARCHITECTURES "" CACHE STRING "GPUs to build for, as CMAKE_CUDA_ARCHITECTURES; empty: all that this toolkit knows")

include(CheckLanguage)
find_program(ANNEAL_NVCC nvcc HINTS ENV CUDA_PATH ENV CUDA_HOME PATH_SUFFIXES bin PATHS /usr/local/cuda/bin)
mark_as_advanced(ANNEAL_NVCC)
if(NOT CMAKE_CUDA_COMPILER AND DEFINED ENV{CUDACXX})
  set(CMAKE_CUDA_COMPILER $ENV{CUDACXX})
elseif(NOT CMAKE_CUDA_COMPILER AND ANNEAL_NVCC)
  set(CMAKE_CUDA_COMPILER ${ANNEAL_NVCC})
endif()
if(NOT CMAKE_CUDA_COMPILER)
  message(FATAL_ERROR "ANNEAL_CUDA: there is no CUDA toolkit here (nvcc is neither on PATH nor in /usr/local/cuda/bin). "
    "Install one from 12.4 on, or set CMAKE_CUDA_COMPILER to its nvcc.")
endif()
check_language(CXX)
if(NOT CMAKE_CXX_COMPILER)
  message(FATAL_ERROR "ANNEAL_CUDA: nvcc needs a C++ compiler beside it (g++), and there is none here.")
endif()
# Before CMake tries the compiler, so that an old one is told by its version and not by a failed trial.
execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --version OUTPUT_VARIABLE nvcc_version ERROR_QUIET)
if(NOT nvcc_version MATCHES "release ([0-9]+\\.[0-9]+)")
  message(FATAL_ERROR "ANNEAL_CUDA: ${CMAKE_CUDA_COMPILER} is not NVIDIA's nvcc.")
endif()
set(nvcc_version ${CMAKE_MATCH_1})
if(nvcc_version VERSION_LESS 12.4)
  message(FATAL_ERROR "ANNEAL_CUDA: ${CMAKE_CUDA_COMPILER} is of CUDA ${nvcc_version}; 12.4 or newer is needed.")
endif()

# Real code for every card since Ampere, and PTX for those to come. sm_90a is Hopper with its own matrix instructions.
if(ANNEAL_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES ${ANNEAL_CUDA_ARCHITECTURES})
elseif(nvcc_version VERSION_LESS 12.8)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 86-real 89-real 90a-real 90-virtual)
else()
  set(CMAKE_CUDA_ARCHITECTURES 80-real 86-real 89-real 90a-real 100-real 120)
endif()

set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
enable_language(CXX CUDA)
# kernels/cuda/*.c is C over the runtime's C interface.
find_package(CUDAToolkit ${nvcc_version} REQUIRED)
message(STATUS "CUDA ${CMAKE_CUDA_COMPILER_VERSION} for ${CMAKE_CUDA_ARCHITECTURES}")

# Source lines in the machine code, for profilers and compute-sanitizer: they are several times the code itself.
option(ANNEAL_CUDA_LINEINFO "Keep source lines in GPU code" OFF)

# No fast math: results are compared with the CPU's.
target_compile_options(anneal_flags INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-Werror
  -Werror=all-warnings $<$<BOOL:${ANNEAL_CUDA_LINEINFO}>:-lineinfo>>)
