"""Which tests are run on an emulated Raspberry Pi, in parts that run side by side.

TensorFlow and SciPy are not there: what asks for them skips itself.
"""

__all__ = ["ALL", "SHORT", "USUAL"]

ROOMS = ("client", "ota", "model", "ext", "processing", "bundle", "runtime", "protocol", "pi")
ALL = tuple([f"tests/{room}"] for room in ROOMS)
SHORT = (["tests/runtime", "tests/pi"],)

# Dear there, and about what no processor changes: what is said, who is asked, processes that are started again and
# again. Errors of signals are taken with numbers of 128 bits, which 64-bit ARM has in software only; bits are compared.
SAME_EVERYWHERE = (
    "tests/bundle/test_manifest.py::test_canonical_json_says_again_what_it_was_told",
    "tests/client/test_hybrid.py::test_a_server_without_our_encodings_gets_a_processed_tensor",
    "tests/client/test_hybrid.py::test_nan_from_the_cloud_is_rejected",
    "tests/client/test_hybrid.py::test_other_labels_are_rejected",
    "tests/client/test_hybrid.py::test_the_answer_of_another_model_is_used_but_not_certified",
    "tests/client/test_hybrid.py::test_too_many_classes_from_the_cloud_are_rejected",
    "tests/client/test_hybrid.py::test_with_several_models_on_the_server_one_must_be_named",
    "tests/ext/test_pure.py::test_a_bundle_is_verified_and_answers_the_same_on_the_twins",
    "tests/ext/test_pure.py::test_kernels_that_do_not_load_are_one_line_that_says_what_helps",
    "tests/ext/test_pure.py::test_the_doctor_says_what_computes",
    "tests/ext/test_signals.py::test_values_are_off_by_a_few_last_places_only",
    "tests/model/test_frames.py::test_a_large_picture_that_is_upright_is_not_copied_to_turn_it",
    "tests/model/test_frames.py::test_decoding_in_many_threads_leaves_the_filters_of_warnings_as_they_were",
    "tests/ota/test_power_cut.py::test_a_power_cut_leaves_each_of_two_models_its_old_version_or_its_new_one",
)
# what takes longest is begun first
USUAL = tuple(
    [*part, *(f"--deselect={name}" for name in SAME_EVERYWHERE if name.startswith(tuple(part)))]
    for part in (
        ["tests/ota/test_power.py", "tests/ota/test_power_cut.py", "tests/ota/test_packets.py"],
        ["tests/client/test_hybrid.py", "tests/model/test_model.py", "tests/model/test_frames.py"],
        ["tests/ext", "tests/processing"],
        ["tests/bundle", "tests/runtime", "tests/protocol", "tests/pi"],
    )
)
