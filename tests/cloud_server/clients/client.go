// Asks a server what test_other_clients.py says, with grpc-go:
//
//	client ADDRESS [CA CERT KEY]
//	client ADDRESS go-on
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	health "clients/health"
	inference "clients/inference"
	reflection "clients/reflection"
)

func must(err error) {
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
}

func dial(address string, more ...grpc.DialOption) *grpc.ClientConn {
	options := append(more, grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30), grpc.MaxCallSendMsgSize(1<<30)))
	if len(os.Args) == 5 {
		authorities := x509.NewCertPool()
		ca, err := os.ReadFile(os.Args[2])
		must(err)
		authorities.AppendCertsFromPEM(ca)
		own, err := tls.LoadX509KeyPair(os.Args[3], os.Args[4])
		must(err)
		config := &tls.Config{RootCAs: authorities, Certificates: []tls.Certificate{own}}
		options = append(options, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	} else {
		options = append(options, grpc.WithInsecure())
	}
	connection, err := grpc.Dial(address, options...)
	must(err)
	return connection
}

func code(err error) uint32 {
	return uint32(status.Code(err))
}

func echo(size int) *inference.ModelInferRequest {
	sent := make([]byte, size)
	for at := range sent {
		sent[at] = byte(at * 7)
	}
	tensor := &inference.ModelInferRequest_InferInputTensor{Name: "x", Datatype: "UINT8", Shape: []int64{1, int64(size)}}
	return &inference.ModelInferRequest{
		ModelName: "echo", Inputs: []*inference.ModelInferRequest_InferInputTensor{tensor}, RawInputContents: [][]byte{sent},
	}
}

func slow(turns uint64) *inference.ModelInferRequest {
	contents := make([]byte, 8)
	binary.LittleEndian.PutUint64(contents, turns)
	tensor := &inference.ModelInferRequest_InferInputTensor{Name: "turns", Datatype: "INT64", Shape: []int64{1}}
	return &inference.ModelInferRequest{
		ModelName: "slow", Inputs: []*inference.ModelInferRequest_InferInputTensor{tensor}, RawInputContents: [][]byte{contents},
	}
}

func echoed(client inference.GRPCInferenceServiceClient, ctx context.Context, size int, options ...grpc.CallOption) string {
	request := echo(size)
	answer, err := client.ModelInfer(ctx, request, options...)
	if err != nil {
		return fmt.Sprint(code(err), " ", status.Convert(err).Message())
	}
	if !bytes.Equal(answer.RawOutputContents[0], request.RawInputContents[0]) {
		return "other"
	}
	return "same"
}

func sizes(client inference.GRPCInferenceServiceClient) string {
	all := []int{1, 4<<20 + 1, 12 << 20}
	for _, base := range []int{1 << 14, 1 << 16, 1 << 18, 1 << 20} {
		for less := 0; less < 96; less += 5 {
			all = append(all, base-less)
		}
	}
	for _, size := range all {
		if result := echoed(client, context.Background(), size); result != "same" {
			return fmt.Sprint(size, ": ", result)
		}
	}
	return "same"
}

func many(client inference.GRPCInferenceServiceClient) int {
	results := make(chan string)
	for n := 0; n < 64; n++ {
		go func(n int) { results <- echoed(client, context.Background(), 1000+1000*n) }(n)
	}
	good := 0
	for n := 0; n < 64; n++ {
		if <-results == "same" {
			good++
		}
	}
	return good
}

func turns(client inference.GRPCInferenceServiceClient) string {
	stream, err := client.ModelStreamInfer(context.Background())
	must(err)
	ids := []string{}
	for n := 0; n < 5; n++ {
		request := echo(100000)
		request.Id = fmt.Sprint(n)
		must(stream.Send(request))
		answer, err := stream.Recv()
		must(err)
		ids = append(ids, answer.InferResponse.Id)
	}
	must(stream.CloseSend())
	if _, err := stream.Recv(); err != io.EOF {
		return fmt.Sprint("no end: ", err)
	}
	return strings.Join(ids, ",") + " end"
}

func unhurried(client inference.GRPCInferenceServiceClient) int {
	stream, err := client.ModelStreamInfer(context.Background())
	must(err)
	request := echo(4 << 20)
	go func() {
		for n := 0; n < 6; n++ {
			must(stream.Send(request))
		}
		must(stream.CloseSend())
	}()
	time.Sleep(1500 * time.Millisecond)
	good := 0
	for {
		answer, err := stream.Recv()
		if err == io.EOF {
			return good
		}
		must(err)
		if bytes.Equal(answer.InferResponse.RawOutputContents[0], request.RawInputContents[0]) {
			good++
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func services(connection *grpc.ClientConn) string {
	stream, err := reflection.NewServerReflectionClient(connection).ServerReflectionInfo(context.Background())
	must(err)
	list := &reflection.ServerReflectionRequest_ListServices{ListServices: "*"}
	must(stream.Send(&reflection.ServerReflectionRequest{MessageRequest: list}))
	answer, err := stream.Recv()
	must(err)
	names := []string{}
	for _, service := range answer.GetListServicesResponse().Service {
		names = append(names, service.Name)
	}
	must(stream.CloseSend())
	sort.Strings(names)
	return strings.Join(names, ",")
}

func steps(address string) {
	background := context.Background()
	connection := dial(address)
	client := inference.NewGRPCInferenceServiceClient(connection)
	fmt.Println("sizes", sizes(client))
	fmt.Println("many", many(client))
	fmt.Println("turns", turns(client))
	fmt.Println("unhurried", unhurried(client))
	ctx, cancel := context.WithTimeout(background, 200*time.Millisecond)
	_, err := client.ModelInfer(ctx, slow(1000000))
	cancel()
	fmt.Println("late", code(err))
	ctx, cancel = context.WithCancel(background)
	time.AfterFunc(100*time.Millisecond, cancel)
	_, err = client.ModelInfer(ctx, slow(1000000))
	fmt.Println("cancelled", code(err))
	_, err = client.ModelInfer(background, &inference.ModelInferRequest{ModelName: "grün 100 %"})
	fmt.Println("missing", code(err), status.Convert(err).Message())
	_, err = client.ModelInfer(background, echo(17<<20))
	fmt.Println("large", code(err))
	nothing := "/inference.GRPCInferenceService/Nothing"
	fmt.Println("unknown", code(connection.Invoke(background, nothing, echo(1), new(inference.ModelInferResponse))))
	ctx = metadata.AppendToOutgoingContext(background, "odd-bin", "\x00\xff\n\r", "twice", "one", "twice", "two")
	fmt.Println("metadata", echoed(client, ctx, 10))
	fmt.Println("gzip", echoed(client, background, 300000, grpc.UseCompressor(gzip.Name)))
	checks := health.NewHealthClient(connection)
	check, err := checks.Check(background, &health.HealthCheckRequest{})
	must(err)
	fmt.Println("health", check.Status)
	ctx, cancel = context.WithCancel(background)
	watch, err := checks.Watch(ctx, &health.HealthCheckRequest{})
	must(err)
	check, err = watch.Recv()
	must(err)
	cancel()
	fmt.Println("watch", check.Status)
	fmt.Println("services", services(connection))
	pinging := dial(address, grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Millisecond})) // 10 s: not less
	_, err = inference.NewGRPCInferenceServiceClient(pinging).ModelInfer(background, slow(200000))
	fmt.Println("pings", code(err))
}

func goOn(address string) {
	client := inference.NewGRPCInferenceServiceClient(dial(address))
	var lock sync.Mutex
	var callers sync.WaitGroup
	calls, ended, failed := 0, false, map[string]int{}
	for n := 0; n < 8; n++ {
		callers.Add(1)
		go func() {
			defer callers.Done()
			for {
				result := echoed(client, context.Background(), 2000)
				lock.Lock()
				calls++
				if result != "same" {
					failed[result]++
				}
				if calls == 100 {
					fmt.Println("begun", calls)
				}
				over := ended
				lock.Unlock()
				if over {
					return
				}
			}
		}()
	}
	_, err := io.ReadAll(os.Stdin)
	must(err)
	lock.Lock()
	ended = true
	lock.Unlock()
	callers.Wait()
	fmt.Println("calls", calls)
	fmt.Print("failed")
	for result, count := range failed {
		fmt.Print(" ", count, " x ", result)
	}
	fmt.Println()
}

func main() {
	if len(os.Args) == 3 {
		goOn(os.Args[1])
	} else {
		steps(os.Args[1])
	}
}
