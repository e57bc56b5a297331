// Asks a server what test_other_clients.py says, with grpc-java over Netty:
//   Client ADDRESS [CA CERT KEY]
//   Client ADDRESS go-on
import com.google.protobuf.ByteString;
import grpc.health.v1.HealthGrpc;
import grpc.health.v1.HealthOuterClass.HealthCheckRequest;
import grpc.health.v1.HealthOuterClass.HealthCheckResponse;
import grpc.reflection.v1.Reflection.ServerReflectionRequest;
import grpc.reflection.v1.Reflection.ServerReflectionResponse;
import grpc.reflection.v1.Reflection.ServiceResponse;
import grpc.reflection.v1.ServerReflectionGrpc;
import inference.GRPCInferenceServiceGrpc;
import inference.GRPCInferenceServiceGrpc.GRPCInferenceServiceBlockingStub;
import inference.Inference.ModelInferRequest;
import inference.Inference.ModelInferResponse;
import inference.Inference.ModelStreamInferResponse;
import io.grpc.Context;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.GrpcSslContexts;
import io.grpc.netty.NettyChannelBuilder;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.ClientResponseObserver;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.MetadataUtils;
import io.grpc.stub.StreamObserver;
import java.io.File;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Collectors;

public class Client {
  static final Object END = new Object();
  static String[] arguments;

  static ManagedChannel open(boolean pinging) throws Exception {
    NettyChannelBuilder builder = NettyChannelBuilder.forTarget(arguments[0]).maxInboundMessageSize(1 << 30);
    if (arguments.length == 4) {
      builder.sslContext(GrpcSslContexts.forClient().trustManager(new File(arguments[1]))
          .keyManager(new File(arguments[2]), new File(arguments[3])).build());
    } else {
      builder.usePlaintext();
    }
    if (pinging) {
      builder.keepAliveTime(1, TimeUnit.MILLISECONDS); // 10 s: it takes no less
    }
    return builder.build();
  }

  static ModelInferRequest request(String model, String tensor, String type, byte[] sent, long... shape) {
    ModelInferRequest.InferInputTensor.Builder input =
        ModelInferRequest.InferInputTensor.newBuilder().setName(tensor).setDatatype(type);
    for (long extent : shape) {
      input.addShape(extent);
    }
    return ModelInferRequest.newBuilder().setModelName(model).addInputs(input)
        .addRawInputContents(ByteString.copyFrom(sent)).build();
  }

  static ModelInferRequest echo(int size) {
    byte[] sent = new byte[size];
    for (int at = 0; at < size; at++) {
      sent[at] = (byte) (at * 7);
    }
    return request("echo", "x", "UINT8", sent, 1, size);
  }

  static ModelInferRequest slow(long turns) {
    byte[] sent = ByteBuffer.allocate(8).order(ByteOrder.LITTLE_ENDIAN).putLong(turns).array();
    return request("slow", "turns", "INT64", sent, 1);
  }

  static String echoed(GRPCInferenceServiceBlockingStub stub, int size) {
    ModelInferRequest request = echo(size);
    try {
      ModelInferResponse answer = stub.modelInfer(request);
      return answer.getRawOutputContents(0).equals(request.getRawInputContents(0)) ? "same" : "other";
    } catch (StatusRuntimeException error) {
      return error.getStatus().getCode().value() + " " + error.getStatus().getDescription();
    }
  }

  static int ended(Callable<?> call) throws Exception {
    try {
      call.call();
      return 0;
    } catch (StatusRuntimeException error) {
      return error.getStatus().getCode().value();
    }
  }

  static String sizes(GRPCInferenceServiceBlockingStub stub) {
    List<Integer> all = new ArrayList<>(List.of(1, (4 << 20) + 1, 12 << 20));
    for (int base : new int[] {1 << 14, 1 << 16, 1 << 18, 1 << 20}) {
      for (int less = 0; less < 96; less += 5) {
        all.add(base - less);
      }
    }
    for (int size : all) {
      String result = echoed(stub, size);
      if (!result.equals("same")) {
        return size + ": " + result;
      }
    }
    return "same";
  }

  static int many(GRPCInferenceServiceBlockingStub stub) throws Exception {
    ExecutorService threads = Executors.newFixedThreadPool(64);
    List<Future<String>> asked = new ArrayList<>();
    for (int n = 0; n < 64; n++) {
      int size = 1000 + 1000 * n;
      asked.add(threads.submit(() -> echoed(stub, size)));
    }
    int good = 0;
    for (Future<String> one : asked) {
      good += one.get().equals("same") ? 1 : 0;
    }
    threads.shutdown();
    return good;
  }

  /** What comes of a stream, one after another; it asks for no more than is taken. */
  static class Answers<Takes, Gives> implements ClientResponseObserver<Takes, Gives> {
    final BlockingQueue<Object> came = new LinkedBlockingQueue<>();
    ClientCallStreamObserver<Takes> call;

    public void beforeStart(ClientCallStreamObserver<Takes> call) {
      this.call = call;
      call.disableAutoRequestWithInitial(0);
    }

    public void onNext(Gives answer) {
      came.add(answer);
    }

    public void onError(Throwable error) {
      came.add(error);
    }

    public void onCompleted() {
      came.add(END);
    }

    @SuppressWarnings("unchecked")
    Gives next() throws InterruptedException {
      call.request(1);
      Object one = came.take();
      if (one instanceof Throwable) {
        throw new IllegalStateException((Throwable) one);
      }
      return one == END ? null : (Gives) one;
    }
  }

  static String turns(ManagedChannel channel) throws Exception {
    Answers<ModelInferRequest, ModelStreamInferResponse> answers = new Answers<>();
    StreamObserver<ModelInferRequest> stream = GRPCInferenceServiceGrpc.newStub(channel).modelStreamInfer(answers);
    List<String> ids = new ArrayList<>();
    for (int n = 0; n < 5; n++) {
      stream.onNext(echo(100_000).toBuilder().setId("" + n).build());
      ids.add(answers.next().getInferResponse().getId());
    }
    stream.onCompleted();
    return String.join(",", ids) + (answers.next() == null ? " end" : " more");
  }

  static int unhurried(ManagedChannel channel) throws Exception {
    Answers<ModelInferRequest, ModelStreamInferResponse> answers = new Answers<>();
    StreamObserver<ModelInferRequest> stream = GRPCInferenceServiceGrpc.newStub(channel).modelStreamInfer(answers);
    ModelInferRequest request = echo(4 << 20);
    for (int n = 0; n < 6; n++) {
      stream.onNext(request);
    }
    stream.onCompleted();
    Thread.sleep(1500);
    int good = 0;
    for (ModelStreamInferResponse answer; (answer = answers.next()) != null; Thread.sleep(50)) {
      good += answer.getInferResponse().getRawOutputContents(0).equals(request.getRawInputContents(0)) ? 1 : 0;
    }
    return good;
  }

  static String services(ManagedChannel channel) throws Exception {
    Answers<ServerReflectionRequest, ServerReflectionResponse> answers = new Answers<>();
    StreamObserver<ServerReflectionRequest> stream =
        ServerReflectionGrpc.newStub(channel).serverReflectionInfo(answers);
    stream.onNext(ServerReflectionRequest.newBuilder().setListServices("*").build());
    List<ServiceResponse> listed = answers.next().getListServicesResponse().getServiceList();
    stream.onCompleted();
    return listed.stream().map(ServiceResponse::getName).sorted().collect(Collectors.joining(","));
  }

  static void told(String step, Object result) {
    System.out.println(step + " " + result);
  }

  static void steps() throws Exception {
    ManagedChannel channel = open(false);
    GRPCInferenceServiceBlockingStub stub = GRPCInferenceServiceGrpc.newBlockingStub(channel);
    told("sizes", sizes(stub));
    told("many", many(stub));
    told("turns", turns(channel));
    told("unhurried", unhurried(channel));
    told("late", ended(() -> stub.withDeadlineAfter(200, TimeUnit.MILLISECONDS).modelInfer(slow(1_000_000))));
    Context.CancellableContext context = Context.current().withCancellation();
    Thread cancelling = new Thread(() -> {
      try {
        Thread.sleep(100);
      } catch (InterruptedException error) {
        throw new IllegalStateException(error);
      }
      context.cancel(null);
    });
    cancelling.start();
    told("cancelled", ended(() -> context.call(() -> stub.modelInfer(slow(1_000_000)))));
    try {
      stub.modelInfer(ModelInferRequest.newBuilder().setModelName("grün 100 %").build());
    } catch (StatusRuntimeException error) {
      told("missing", error.getStatus().getCode().value() + " " + error.getStatus().getDescription());
    }
    told("large", ended(() -> stub.modelInfer(echo(17 << 20))));
    MethodDescriptor<ModelInferRequest, ModelInferResponse> nothing = GRPCInferenceServiceGrpc.getModelInferMethod()
        .toBuilder().setFullMethodName("inference.GRPCInferenceService/Nothing").build();
    told("unknown", ended(() -> ClientCalls.blockingUnaryCall(channel, nothing, stub.getCallOptions(), echo(1))));
    Metadata metadata = new Metadata();
    metadata.put(Metadata.Key.of("odd-bin", Metadata.BINARY_BYTE_MARSHALLER), new byte[] {0, -1, 10, 13});
    metadata.put(Metadata.Key.of("twice", Metadata.ASCII_STRING_MARSHALLER), "one");
    metadata.put(Metadata.Key.of("twice", Metadata.ASCII_STRING_MARSHALLER), "two");
    told("metadata", echoed(stub.withInterceptors(MetadataUtils.newAttachHeadersInterceptor(metadata)), 10));
    told("gzip", echoed(stub.withCompression("gzip"), 300_000));
    told("health", HealthGrpc.newBlockingStub(channel).check(HealthCheckRequest.getDefaultInstance()).getStatus());
    Answers<HealthCheckRequest, HealthCheckResponse> watched = new Answers<>();
    HealthGrpc.newStub(channel).watch(HealthCheckRequest.getDefaultInstance(), watched);
    told("watch", watched.next().getStatus());
    watched.call.cancel("enough", null);
    told("services", services(channel));
    ManagedChannel pinging = open(true);
    told("pings", ended(() -> GRPCInferenceServiceGrpc.newBlockingStub(pinging).modelInfer(slow(200_000))));
    pinging.shutdownNow();
    channel.shutdownNow();
  }

  static void goOn() throws Exception {
    ManagedChannel channel = open(false);
    GRPCInferenceServiceBlockingStub stub = GRPCInferenceServiceGrpc.newBlockingStub(channel);
    AtomicBoolean over = new AtomicBoolean();
    AtomicInteger calls = new AtomicInteger();
    Map<String, Integer> failed = new TreeMap<>();
    List<Thread> callers = new ArrayList<>();
    for (int n = 0; n < 8; n++) {
      Thread caller = new Thread(() -> {
        while (!over.get()) {
          String result = echoed(stub, 2000);
          if (!result.equals("same")) {
            synchronized (failed) {
              failed.merge(result, 1, Integer::sum);
            }
          }
          if (calls.incrementAndGet() == 100) {
            told("begun", 100);
          }
        }
      });
      caller.start();
      callers.add(caller);
    }
    System.in.readAllBytes();
    over.set(true);
    for (Thread caller : callers) {
      caller.join();
    }
    told("calls", calls);
    told("failed", failed.isEmpty() ? "" : failed);
    channel.shutdownNow();
  }

  public static void main(String[] values) throws Exception {
    arguments = values;
    if (values.length == 2) {
      goOn();
    } else {
      steps();
    }
    System.exit(0);
  }
}
