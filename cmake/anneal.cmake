# How every target of the project is built, and the two functions that folders use.

if(ANNEAL_CORE_ONLY)
  find_package(PkgConfig)
else()
  find_package(PkgConfig REQUIRED)
endif()
find_package(Threads REQUIRED)

add_library(anneal_flags INTERFACE)
target_include_directories(anneal_flags INTERFACE ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR}/generated)
target_compile_definitions(anneal_flags INTERFACE _GNU_SOURCE)
target_compile_options(anneal_flags INTERFACE
  $<$<COMPILE_LANGUAGE:C>:-Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Wno-format-truncation -Wstrict-prototypes
    -Wmissing-prototypes -Wpointer-arith -Wwrite-strings -Werror -fno-common>
  $<$<C_COMPILER_ID:Clang>:-Wno-unknown-warning-option>)
if(ANNEAL_SANITIZE)
  target_compile_options(anneal_flags INTERFACE $<$<COMPILE_LANGUAGE:C,CXX>:-fsanitize=address,undefined
    -fno-sanitize-recover=undefined -fno-omit-frame-pointer -O1 -g>)
  target_link_options(anneal_flags INTERFACE -fsanitize=address,undefined)
endif()

# OpenMP, with gcc's libgomp linked statically: then kernels/cpu/backend.c can choose how its threads wait before it starts,
# which a shared libgomp reads from the environment too early. Exists as a target only where the compiler has OpenMP.
find_package(OpenMP COMPONENTS C)
if(OpenMP_C_FOUND)
  add_library(anneal_openmp INTERFACE)
  execute_process(COMMAND ${CMAKE_C_COMPILER} -print-file-name=libgomp.a OUTPUT_VARIABLE static_gomp
    OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(CMAKE_C_COMPILER_ID STREQUAL "GNU" AND IS_ABSOLUTE "${static_gomp}")
    target_compile_options(anneal_openmp INTERFACE $<$<COMPILE_LANGUAGE:C>:${OpenMP_C_FLAGS}>)
    target_link_libraries(anneal_openmp INTERFACE ${static_gomp} Threads::Threads ${CMAKE_DL_LIBS})
  else()
    target_link_libraries(anneal_openmp INTERFACE OpenMP::OpenMP_C)
  endif()
endif()

# anneal_folder(NAME SOURCES a.c … [LIBS lib …]): the static library of one folder.
function(anneal_folder name)
  cmake_parse_arguments(A "" "" "SOURCES;LIBS" ${ARGN})
  add_library(anneal_${name} STATIC ${A_SOURCES})
  target_link_libraries(anneal_${name} PUBLIC anneal_flags ${A_LIBS})
endfunction()

# anneal_test(NAME [CUDA] SOURCES a.c … [LIBS lib …] [LABELS label …]): one cmocka program, run from the project's root
# (tests find ../shared/data from there).
# CUDA: its tests run on a GPU too, where the build has the CUDA backend and the machine a GPU.
function(anneal_test name)
  cmake_parse_arguments(A "CUDA" "" "SOURCES;LIBS;LABELS" ${ARGN})
  if(ANNEAL_CORE_ONLY)
    pkg_check_modules(CMOCKA QUIET IMPORTED_TARGET cmocka)
  else()
    pkg_check_modules(CMOCKA REQUIRED IMPORTED_TARGET cmocka)
  endif()
  add_executable(test_${name} ${A_SOURCES})
  target_link_libraries(test_${name} PRIVATE ${A_LIBS})
  if(CMOCKA_FOUND)
    target_link_libraries(test_${name} PRIVATE PkgConfig::CMOCKA)
  else()
    target_compile_definitions(test_${name} PRIVATE CMOCKA_MIN)
  endif()
  if(A_CUDA AND ANNEAL_CUDA)
    target_compile_definitions(test_${name} PRIVATE TEST_CUDA)
    list(APPEND A_LABELS cuda)
  endif()
  add_test(NAME ${name} COMMAND test_${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES LABELS "${A_LABELS}" TIMEOUT 300)
endfunction()
