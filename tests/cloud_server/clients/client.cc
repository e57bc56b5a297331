// Asks a server what test_other_clients.py says, with the C++ library of gRPC:
//   client ADDRESS [CA CERT KEY]
//   client ADDRESS go-on
#include <grpcpp/grpcpp.h>
#include <grpcpp/generic/generic_stub.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <sstream>
#include <thread>
#include <vector>

#include "health.grpc.pb.h"
#include "inference.grpc.pb.h"
#include "reflection.grpc.pb.h"

using namespace std::chrono_literals;
using inference::ModelInferRequest;
using inference::ModelInferResponse;
using Stub = inference::GRPCInferenceService::Stub;

std::vector<std::string> arguments;

std::string contents(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::shared_ptr<grpc::Channel> channel(int ping_milliseconds = 0) {
  grpc::ChannelArguments options;
  options.SetMaxReceiveMessageSize(-1);
  options.SetMaxSendMessageSize(-1);
  options.SetInt("grpc.use_local_subchannel_pool", 1);
  if (ping_milliseconds) {
    options.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, ping_milliseconds);
    options.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  }
  auto credentials = grpc::InsecureChannelCredentials();
  if (arguments.size() == 4)
    credentials = grpc::SslCredentials({contents(arguments[1]), contents(arguments[3]), contents(arguments[2])});
  return grpc::CreateCustomChannel(arguments[0], credentials, options);
}

ModelInferRequest echo(int64_t size) {
  std::string sent(size, '\0');
  for (int64_t at = 0; at < size; at++) sent[at] = static_cast<char>(at * 7);
  ModelInferRequest request;
  request.set_model_name("echo");
  auto* tensor = request.add_inputs();
  tensor->set_name("x");
  tensor->set_datatype("UINT8");
  tensor->add_shape(1);
  tensor->add_shape(size);
  request.add_raw_input_contents(sent);
  return request;
}

ModelInferRequest slow(int64_t turns) {
  ModelInferRequest request;
  request.set_model_name("slow");
  auto* tensor = request.add_inputs();
  tensor->set_name("turns");
  tensor->set_datatype("INT64");
  tensor->add_shape(1);
  request.add_raw_input_contents(std::string(reinterpret_cast<char*>(&turns), sizeof turns));
  return request;
}

std::string said(const grpc::Status& status) {
  return std::to_string(status.error_code()) + " " + status.error_message();
}

std::string echoed(Stub& stub, int64_t size, grpc::ClientContext& context) {
  auto request = echo(size);
  ModelInferResponse answer;
  auto status = stub.ModelInfer(&context, request, &answer);
  if (!status.ok()) return said(status);
  return answer.raw_output_contents(0) == request.raw_input_contents(0) ? "same" : "other";
}

std::string echoed(Stub& stub, int64_t size) {
  grpc::ClientContext context;
  return echoed(stub, size, context);
}

grpc::Status ended(Stub& stub, const ModelInferRequest& request, grpc::ClientContext& context) {
  ModelInferResponse answer;
  return stub.ModelInfer(&context, request, &answer);
}

std::string sizes(Stub& stub) {
  std::vector<int64_t> all = {1, (4 << 20) + 1, 12 << 20};
  for (int base : {1 << 14, 1 << 16, 1 << 18, 1 << 20})
    for (int less = 0; less < 96; less += 5) all.push_back(base - less);
  for (auto size : all)
    if (auto result = echoed(stub, size); result != "same") return std::to_string(size) + ": " + result;
  return "same";
}

int many(Stub& stub) {
  std::atomic<int> good = 0;
  std::vector<std::thread> callers;
  for (int n = 0; n < 64; n++) callers.emplace_back([&, n] { good += echoed(stub, 1000 + 1000 * n) == "same"; });
  for (auto& caller : callers) caller.join();
  return good;
}

std::string turns(Stub& stub) {
  grpc::ClientContext context;
  auto stream = stub.ModelStreamInfer(&context);
  std::string ids;
  inference::ModelStreamInferResponse answer;
  for (int n = 0; n < 5; n++) {
    auto request = echo(100000);
    request.set_id(std::to_string(n));
    stream->Write(request);
    stream->Read(&answer);
    ids += (n ? "," : "") + answer.infer_response().id();
  }
  stream->WritesDone();
  bool more = stream->Read(&answer);
  return ids + (!more && stream->Finish().ok() ? " end" : " more");
}

int unhurried(Stub& stub) {
  grpc::ClientContext context;
  auto stream = stub.ModelStreamInfer(&context);
  auto request = echo(4 << 20);
  std::thread writing([&] {
    for (int n = 0; n < 6; n++) stream->Write(request);
    stream->WritesDone();
  });
  std::this_thread::sleep_for(1500ms);
  int good = 0;
  inference::ModelStreamInferResponse answer;
  while (stream->Read(&answer)) {
    good += answer.infer_response().raw_output_contents(0) == request.raw_input_contents(0);
    std::this_thread::sleep_for(50ms);
  }
  writing.join();
  stream->Finish();
  return good;
}

int unknown(const std::shared_ptr<grpc::Channel>& connection) {
  grpc::GenericStub stub(connection);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  grpc::ByteBuffer empty, answer;
  grpc::Status status;
  auto call = stub.PrepareUnaryCall(&context, "/inference.GRPCInferenceService/Nothing", empty, &queue);
  call->StartCall();
  call->Finish(&answer, &status, nullptr);
  void* tag;
  bool ok;
  queue.Next(&tag, &ok);
  return status.error_code();
}

std::string services(const std::shared_ptr<grpc::Channel>& connection) {
  grpc::reflection::v1::ServerReflection::Stub stub(connection);
  grpc::ClientContext context;
  auto stream = stub.ServerReflectionInfo(&context);
  grpc::reflection::v1::ServerReflectionRequest request;
  grpc::reflection::v1::ServerReflectionResponse answer;
  request.set_list_services("*");
  stream->Write(request);
  stream->Read(&answer);
  stream->WritesDone();
  stream->Finish();
  std::set<std::string> names;
  for (auto& service : answer.list_services_response().service()) names.insert(service.name());
  std::string all;
  for (auto& name : names) all += (all.empty() ? "" : ",") + name;
  return all;
}

void steps() {
  auto connection = channel();
  Stub stub(connection);
  auto told = [](const char* step, const auto& result) { std::cout << step << " " << result << std::endl; };
  told("sizes", sizes(stub));
  told("many", many(stub));
  told("turns", turns(stub));
  told("unhurried", unhurried(stub));
  {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + 200ms);
    told("late", ended(stub, slow(1000000), context).error_code());
  }
  {
    grpc::ClientContext context;
    std::thread cancelling([&] {
      std::this_thread::sleep_for(100ms);
      context.TryCancel();
    });
    told("cancelled", ended(stub, slow(1000000), context).error_code());
    cancelling.join();
  }
  {
    grpc::ClientContext context;
    ModelInferRequest request;
    request.set_model_name("grün 100 %");
    told("missing", said(ended(stub, request, context)));
  }
  {
    grpc::ClientContext context;
    told("large", ended(stub, echo(17 << 20), context).error_code());
  }
  told("unknown", unknown(connection));
  {
    grpc::ClientContext context;
    context.AddMetadata("odd-bin", std::string("\x00\xff\n\r", 4));
    context.AddMetadata("twice", "one");
    context.AddMetadata("twice", "two");
    told("metadata", echoed(stub, 10, context));
  }
  {
    grpc::ClientContext context;
    context.set_compression_algorithm(GRPC_COMPRESS_GZIP);
    told("gzip", echoed(stub, 300000, context));
  }
  grpc::health::v1::Health::Stub health(connection);
  grpc::health::v1::HealthCheckResponse check;
  {
    grpc::ClientContext context;
    health.Check(&context, {}, &check);
    told("health", grpc::health::v1::HealthCheckResponse::ServingStatus_Name(check.status()));
  }
  {
    grpc::ClientContext context;
    auto watch = health.Watch(&context, {});
    watch->Read(&check);
    told("watch", grpc::health::v1::HealthCheckResponse::ServingStatus_Name(check.status()));
    context.TryCancel();
    while (watch->Read(&check)) {
    }
    watch->Finish();
  }
  told("services", services(connection));
  Stub pinging(channel(20));
  grpc::ClientContext context;
  told("pings", ended(pinging, slow(200000), context).error_code());
}

void go_on() {
  Stub stub(channel());
  std::atomic<bool> over = false;
  std::mutex lock;
  std::map<std::string, int> failed;
  int calls = 0;
  std::vector<std::thread> callers;
  for (int n = 0; n < 8; n++)
    callers.emplace_back([&] {
      while (!over) {
        auto result = echoed(stub, 2000);
        std::lock_guard held(lock);
        if (result != "same") failed[result]++;
        if (++calls == 100) std::cout << "begun " << calls << std::endl;
      }
    });
  while (std::cin.get() != EOF) {
  }
  over = true;
  for (auto& caller : callers) caller.join();
  std::cout << "calls " << calls << "\nfailed";
  for (auto& [what, count] : failed) std::cout << " " << count << " x " << what;
  std::cout << std::endl;
}

int main(int count, char** values) {
  arguments.assign(values + 1, values + count);
  arguments.size() == 2 ? go_on() : steps();
}
