package realservers

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"leafcutter/pkg/objectstore"
)

// Objects is SeaweedFS: master, volume server, filer and S3 gateway in one process.
type Objects struct {
	*Process
	URL       string // of the S3 gateway
	AccessKey string
	SecretKey string

	address string
}

// NewObjects makes a SeaweedFS that keeps its data in dir and is not yet started.
func NewObjects(dir string) (*Objects, error) {
	weed, err := fetched("weed")
	if err != nil {
		return nil, err
	}
	ports, err := Ports(8)
	if err != nil {
		return nil, err
	}
	o := &Objects{AccessKey: "leafcutter", SecretKey: "cut-and-carried", address: local(ports[6])}
	o.URL = "http://" + o.address
	data, identities := filepath.Join(dir, "data"), filepath.Join(dir, "identities.json")
	if err := os.MkdirAll(data, 0o755); err != nil {
		return nil, fmt.Errorf("make the folder of SeaweedFS: %w", err)
	}
	type credentials struct {
		AccessKey string `json:"accessKey"`
		SecretKey string `json:"secretKey"`
	}
	type identity struct {
		Name        string        `json:"name"`
		Credentials []credentials `json:"credentials"`
		Actions     []string      `json:"actions"`
	}
	who, err := json.Marshal(map[string][]identity{"identities": {{
		Name: "leafcutter", Credentials: []credentials{{o.AccessKey, o.SecretKey}}, Actions: []string{"Admin", "Read", "Write", "List", "Tagging"},
	}}})
	if err != nil {
		return nil, fmt.Errorf("configure SeaweedFS: %w", err)
	}
	if err := os.WriteFile(identities, who, 0o600); err != nil {
		return nil, fmt.Errorf("configure SeaweedFS: %w", err)
	}
	args := []string{"server", "-dir=" + data, "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-s3.config=" + identities,
		"-s3.port.iceberg=0", "-s3.port.lance=0", "-filer.localSocket=" + filepath.Join(dir, "filer.sock"),
		// Nobody outside is told of it.
		"-master.telemetry=false",
		"-master.volumeSizeLimitMB=256", "-volume.max=64", "-volume.preStopSeconds=0"}
	for i, name := range []string{"master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc"} {
		args = append(args, "-"+name+"="+strconv.Itoa(ports[i]))
	}
	o.Process = newProcess("seaweedfs", filepath.Join(dir, "logs", "seaweedfs.log"), func() *exec.Cmd {
		cmd := exec.Command(weed, args...)
		cmd.Dir = dir
		return cmd
	})
	return o, nil
}

// AwaitStoring waits until an object can be put and read: the gateway listens a little earlier than that.
func (o *Objects) AwaitStoring(ctx context.Context) error {
	store, err := objectstore.Open(ctx, objectstore.Config{
		Endpoint: o.URL, Region: "us-east-1", AccessKeyID: o.AccessKey, SecretAccessKey: o.SecretKey, Bucket: "leafcutter",
		ForcePathStyle: true, Checksum: "when-supported", Connections: 1,
	})
	if err != nil {
		return err
	}
	defer store.Close()
	const key = "tests/awaited"
	return o.await(ctx, func(ctx context.Context) error {
		if err := store.Put(ctx, key, []byte("here"), ""); err != nil {
			return err
		}
		return store.Delete(ctx, key)
	})
}

// Await waits until the S3 gateway listens. That it can also store takes a moment more: the product waits for that.
func (o *Objects) Await(ctx context.Context) error {
	return o.await(ctx, func(ctx context.Context) error { return listening(ctx, o.address) })
}
