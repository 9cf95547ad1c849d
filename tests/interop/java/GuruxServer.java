import gurux.dlms.*;
import gurux.dlms.enums.*;
import gurux.dlms.internal.GXCommon;
import gurux.dlms.objects.*;
import gurux.dlms.objects.enums.*;
import gurux.dlms.secure.GXDLMSSecureServer2;
import java.io.*;
import java.net.*;
import java.util.*;

/**
 * The server of gurux.dlms.java with a register, a name, a profile of 96 rows, a writable value and a switch.
 * Arguments: mechanism, plain or ciphered, title, keys, secret, and unchanged or corrected.
 */
public class GuruxServer extends GXDLMSSecureServer2 {
    static final Map<String, Authentication> MECHANISMS = Map.of("0", Authentication.NONE, "1", Authentication.LOW,
            "5", Authentication.HIGH_GMAC, "6", Authentication.HIGH_SHA256);
    final String secret;
    final boolean corrects;

    GuruxServer(GXDLMSAssociationLogicalName current, String mechanism, boolean ciphered, String[] keys) {
        super(current, InterfaceType.WRAPPER);
        secret = keys[3];
        corrects = keys[4].equals("corrected");
        byte[] title = GXCommon.hexToBytes(keys[0]);
        setMaxReceivePDUSize(512);
        current.setClientSAP(16);
        current.getXDLMSContextInfo().setMaxReceivePduSize(512);
        current.getXDLMSContextInfo().setMaxSendPduSize(512);
        current.getAuthenticationMechanismName().setMechanismId(MECHANISMS.get(mechanism));
        current.setSecret(secret.getBytes());
        Set<Conformance> offered = current.getXDLMSContextInfo().getConformance();
        offered.addAll(GXDLMSClient.getInitialConformance(true));
        GXDLMSSecuritySetup security = new GXDLMSSecuritySetup("0.0.43.0.0.255");
        security.setServerSystemTitle(title);
        security.setGuek(GXCommon.hexToBytes(keys[1]));
        security.setGak(GXCommon.hexToBytes(keys[2]));
        security.setSecuritySuite(SecuritySuite.SUITE_0);
        if (ciphered) {
            security.getSecurityPolicy().addAll(EnumSet.of(SecurityPolicy.AUTHENTICATED, SecurityPolicy.ENCRYPTED));
            current.getApplicationContextName().setContextId(ApplicationContextName.LOGICAL_NAME_WITH_CIPHERING);
        }
        getCiphering().setSystemTitle(title);
        current.setSecuritySetupReference(security.getLogicalName());
        getItems().add(security);
        GXDLMSData name = new GXDLMSData("0.0.42.0.0.255");
        name.setDataType(2, DataType.OCTET_STRING);
        name.setValue("GSL0000000012345".getBytes());
        getItems().add(name);
        GXDLMSClock clock = new GXDLMSClock("0.0.1.0.0.255");
        getItems().add(clock);
        GXDLMSRegister energy = new GXDLMSRegister("1.0.1.8.0.255");
        energy.setDataType(2, DataType.UINT32);
        energy.setUnit(Unit.ACTIVE_ENERGY);
        energy.setValue(123456);
        getItems().add(energy);
        GXDLMSData written = new GXDLMSData("0.0.96.1.9.255");
        written.setDataType(2, DataType.OCTET_STRING);
        written.setValue(new byte[] {1});
        getItems().add(written);
        getItems().add(new GXDLMSDisconnectControl("0.0.96.3.10.255"));
        GXDLMSProfileGeneric profile = new GXDLMSProfileGeneric("1.0.99.1.0.255");
        profile.setCapturePeriod(900);
        profile.addCaptureObject(clock, 2, 0);
        profile.addCaptureObject(energy, 2, 0);
        Object[][] rows = new Object[96][];
        for (int i = 0; i < 96; i++) {
            GXDateTime time = new GXDateTime(2026, 11, 1, i / 4, i % 4 * 15, 0, 0);
            rows[i] = new Object[] {time, 1000L + i};
        }
        profile.setBuffer(rows);
        profile.setEntriesInUse(96);
        profile.setProfileEntries(96);
        getItems().add(profile);
        current.getObjectList().addAll(getItems());
        initialize();
        // Its general block transfer does not come to an end with a window of more than one.
        current.getXDLMSContextInfo().getConformance().remove(Conformance.GENERAL_BLOCK_TRANSFER);
        getConformance().remove(Conformance.GENERAL_BLOCK_TRANSFER);
    }

    public static void main(String[] a) throws Exception {
        System.setErr(new PrintStream(OutputStream.nullOutputStream()));
        try (ServerSocket listener = new ServerSocket(0, 5, InetAddress.getLoopbackAddress())) {
            System.out.println("listening 127.0.0.1:" + listener.getLocalPort());
            while (true) {
                GuruxServer server = new GuruxServer(new GXDLMSAssociationLogicalName(), a[0], a[1].equals("ciphered"),
                        Arrays.copyOfRange(a, 2, 7));
                try (Socket link = listener.accept()) {
                    byte[] part = new byte[4096];
                    for (int n = link.getInputStream().read(part); n > 0; n = link.getInputStream().read(part)) {
                        GXServerReply reply = new GXServerReply(Arrays.copyOf(part, n));
                        do {
                            server.handleRequest(reply);
                            if (reply.getReply() != null) {
                                link.getOutputStream().write(corrected(reply.getReply(), a[6]));
                            }
                            reply.setData(null);
                        } while (reply.isStreaming());
                    }
                } catch (Exception error) {
                    System.out.println(error);
                }
            }
        }
    }

    /** Our correction of both lengths in a release response, behind the eight octets of the wrapper. */
    static byte[] corrected(byte[] frame, String how) {
        if (how.equals("corrected") && frame[8] == 0x63) {
            frame[9] = (byte) (frame.length - 10);
            frame[14] = (byte) (frame.length - 15);
        }
        return frame;
    }

    @Override
    protected boolean isTarget(int server, int client) {
        setAssignedAssociation((GXDLMSAssociationLogicalName) getItems().findByLN(
                ObjectType.ASSOCIATION_LOGICAL_NAME, "0.0.40.0.0.255"));
        return client == 16;
    }

    @Override
    protected SourceDiagnostic onValidateAuthentication(Authentication mechanism, byte[] password) {
        boolean wrong = mechanism == Authentication.LOW && !Arrays.equals(password, secret.getBytes());
        return wrong ? SourceDiagnostic.AUTHENTICATION_FAILURE : SourceDiagnostic.NONE;
    }

    @Override
    protected AccessMode onGetAttributeAccess(ValueEventArgs arg) {
        return AccessMode.READ_WRITE;
    }

    @Override
    protected MethodAccessMode onGetMethodAccess(ValueEventArgs arg) {
        return MethodAccessMode.ACCESS;
    }

    @Override
    protected GXDLMSObject onFindObject(ObjectType type, int sn, String name) {
        return null;
    }

    @Override
    public void onPreRead(ValueEventArgs[] args) {
        for (ValueEventArgs it : args) {
            if (it.getTarget() instanceof GXDLMSProfileGeneric && it.getIndex() == 2 && it.getRowEndIndex() == 0) {
                it.setRowEndIndex(96);
            }
        }
    }

    @Override
    protected void onPreAction(ValueEventArgs[] args) {
        for (ValueEventArgs it : args) {
            if (it.getTarget() instanceof GXDLMSDisconnectControl) {
                ((GXDLMSDisconnectControl) it.getTarget()).setOutputState(it.getIndex() == 2);
                it.setHandled(true);
            }
        }
    }

    @Override
    public void onPreGet(ValueEventArgs[] args) { }

    @Override
    public void onPostGet(ValueEventArgs[] args) { }

    @Override
    public void onPostRead(ValueEventArgs[] args) { }

    @Override
    protected void onPreWrite(ValueEventArgs[] args) { }

    @Override
    protected void onPostWrite(ValueEventArgs[] args) { }

    /** Counts on after a proof, so that the APDU that carries it has a counter of its own. */
    @Override
    protected void onPostAction(ValueEventArgs[] args) {
        if (corrects && args[0].getTarget() instanceof GXDLMSAssociationLogicalName) {
            getCiphering().setInvocationCounter(getCiphering().getInvocationCounter() + 1);
        }
    }

    @Override
    protected void onConnected(GXDLMSConnectionEventArgs info) { }

    @Override
    protected void onInvalidConnection(GXDLMSConnectionEventArgs info) { }

    @Override
    protected void onDisconnected(GXDLMSConnectionEventArgs info) { }
}
